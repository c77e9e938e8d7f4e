import type { Context } from 'koa'
import { inline, sendPage } from '../platform/pages.ts'

// The pages that mail links open. Opening one changes nothing, since mail scanners follow links: a press of its button
// posts. The token travels in the query, so the page sends no referrer and loads nothing from anywhere.
const style = `body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:15vh auto;padding:0 1rem;color-scheme:light dark}
button,input{font:inherit;padding:.6rem 1rem;border-radius:.4rem;border:1px solid #888;width:100%;box-sizing:border-box;margin:.3rem 0}
button{background:#14532d;color:#fff;border:0;cursor:pointer}[role=status]{min-height:1.5rem}`
const script = `const form=document.querySelector('form'),says=document.querySelector('[role=status]')
form.addEventListener('submit',async e=>{e.preventDefault();form.querySelector('button').disabled=true
const body={token:new URLSearchParams(location.search).get('token')||'',...Object.fromEntries(new FormData(form))}
try{const r=await fetch(location.pathname,{method:'POST',headers:{'Content-Type':'application/json'},body:JSON.stringify(body)})
if(r.ok){form.remove();says.textContent=form.dataset.done}else{const p=await r.json();says.textContent=p.detail;form.querySelector('button').disabled=false}}
catch{says.textContent='The shop cannot be reached; try again.';form.querySelector('button').disabled=false}})`

const allowed = `style-src ${inline(style)}; script-src ${inline(script)}; connect-src 'self'; form-action 'none'`

const page = (title: string, text: string, fields: string, button: string, done: string) => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${title}</title><style>${style}</style></head>
<body><h1>${title}</h1><p>${text}</p><form data-done="${done}">${fields}<button>${button}</button></form><p role="status"></p>
<noscript><p>This page needs JavaScript; the mail also has a way without it.</p></noscript><script>${script}</script></body></html>
`

const verifyPage = page(
  'Verify your address',
  'Press the button to verify your mail address.',
  '',
  'Verify',
  'Your address is verified; you can log in now.',
)
const resetPage = page(
  'Set a new password',
  'At least 10 characters. Every device will be signed out.',
  '<input type="password" name="password" minlength="10" maxlength="200" required autocomplete="new-password" aria-label="New password">',
  'Set the password',
  'The new password is set; you can log in now.',
)

const send = (html: string) => async (ctx: Context) => sendPage(ctx, html, allowed)
export const sendVerifyPage = send(verifyPage)
export const sendResetPage = send(resetPage)
