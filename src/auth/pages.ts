import type { Context } from 'koa'
import { inline, sendPage } from '../platform/pages.ts'

// The pages that mail links open. Opening one changes nothing, since mail scanners follow links: a press of its button
// posts. The token travels in the query, so the page sends no referrer and loads nothing from anywhere. Its language is
// the browser's, since whose token it is must not be asked.
const style = `body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:15vh auto;padding:0 1rem;color-scheme:light dark}
button,input{font:inherit;padding:.6rem 1rem;border-radius:.4rem;border:1px solid #888;width:100%;box-sizing:border-box;margin:.3rem 0}
button{background:#14532d;color:#fff;border:0;cursor:pointer}[role=status]{min-height:1.5rem}`
const script = `const form=document.querySelector('form'),says=document.querySelector('[role=status]'),words=form.dataset
form.addEventListener('submit',async e=>{e.preventDefault();form.querySelector('button').disabled=true
const body={token:new URLSearchParams(location.search).get('token')||'',...Object.fromEntries(new FormData(form))}
try{const r=await fetch(location.pathname,{method:'POST',headers:{'Content-Type':'application/json'},body:JSON.stringify(body)})
if(r.ok){form.remove();says.textContent=words.done}else{const p=await r.json();says.textContent=words[p.code]||p.detail;form.querySelector('button').disabled=false}}
catch{says.textContent=words.unavailable;form.querySelector('button').disabled=false}})`

const allowed = `style-src ${inline(style)}; script-src ${inline(script)}; connect-src 'self'; form-action 'none'`

interface Words {
  title: string
  text: string
  button: string
  done: string
  /** Of a link that is worth nothing (any more). */
  bad: string
}
interface Language {
  verify: Words
  reset: Words & { field: string }
  unavailable: string
  slowDown: string
  /** True of both pages: a code verifies the address too, and lets in without a password. */
  noscript: string
}
const locales = ['en', 'de', 'hi'] as const
type Locale = (typeof locales)[number]
const languages: Record<Locale, Language> = {
  en: {
    verify: {
      title: 'Verify your address',
      text: 'Press the button to verify your mail address.',
      button: 'Verify',
      done: 'Your address is verified; you can log in now.',
      bad: 'The link was used, replaced by a newer one, or is older than 24 hours; ask for a new one.',
    },
    reset: {
      title: 'Set a new password',
      text: 'At least 10 characters. Every device will be signed out.',
      field: 'New password',
      button: 'Set the password',
      done: 'The new password is set; you can log in now.',
      bad: 'The link was used, replaced by a newer one, or is older than an hour; ask for a new one.',
    },
    unavailable: 'The shop cannot be reached; try again in a moment.',
    slowDown: 'Too many tries; try again in a moment.',
    noscript: 'This page needs JavaScript. Without it, log in by a code that the shop mails.',
  },
  de: {
    verify: {
      title: 'Adresse bestätigen',
      text: 'Drücken Sie auf die Schaltfläche, um Ihre E-Mail-Adresse zu bestätigen.',
      button: 'Adresse bestätigen',
      done: 'Ihre Adresse ist bestätigt; Sie können sich jetzt anmelden.',
      bad: 'Der Link wurde schon benutzt, durch einen neueren ersetzt oder ist älter als 24 Stunden; fordern Sie einen neuen an.',
    },
    reset: {
      title: 'Neues Passwort wählen',
      text: 'Mindestens 10 Zeichen. Alle Geräte werden abgemeldet.',
      field: 'Neues Passwort',
      button: 'Passwort setzen',
      done: 'Das neue Passwort gilt; Sie können sich jetzt anmelden.',
      bad: 'Der Link wurde schon benutzt, durch einen neueren ersetzt oder ist älter als eine Stunde; fordern Sie einen neuen an.',
    },
    unavailable: 'Der Shop ist gerade nicht erreichbar; versuchen Sie es gleich noch einmal.',
    slowDown: 'Zu viele Versuche; versuchen Sie es gleich noch einmal.',
    noscript:
      'Diese Seite braucht JavaScript. Ohne es können Sie sich mit einem Code anmelden, den der Shop per E-Mail schickt.',
  },
  hi: {
    verify: {
      title: 'पते की पुष्टि करें',
      text: 'अपने ईमेल पते की पुष्टि करने के लिए बटन दबाएँ।',
      button: 'पते की पुष्टि करें',
      done: 'आपके पते की पुष्टि हो गई है; अब आप साइन इन कर सकते हैं।',
      bad: 'यह लिंक इस्तेमाल हो चुका है, इसकी जगह नया लिंक भेजा जा चुका है, या यह 24 घंटे से पुराना है; नया लिंक मँगाएँ।',
    },
    reset: {
      title: 'नया पासवर्ड चुनें',
      text: 'कम से कम 10 अक्षर। सभी डिवाइस साइन आउट हो जाएँगे।',
      field: 'नया पासवर्ड',
      button: 'पासवर्ड सेट करें',
      done: 'नया पासवर्ड सेट हो गया है; अब आप साइन इन कर सकते हैं।',
      bad: 'यह लिंक इस्तेमाल हो चुका है, इसकी जगह नया लिंक भेजा जा चुका है, या यह एक घंटे से पुराना है; नया लिंक मँगाएँ।',
    },
    unavailable: 'अभी शॉप से संपर्क नहीं हो पा रहा है; थोड़ी देर में फिर कोशिश करें।',
    slowDown: 'बहुत ज़्यादा कोशिशें हुईं; थोड़ी देर में फिर कोशिश करें।',
    noscript: 'इस पेज के लिए JavaScript ज़रूरी है। इसके बिना आप ईमेल पर मिले कोड से साइन इन कर सकते हैं।',
  },
}

function page(locale: Locale, which: 'verify' | 'reset') {
  const { [which]: words, unavailable, slowDown, noscript } = languages[locale]
  // A problem's code, and what is said of it; of others its own detail. The form lets no input be invalid but the link's.
  const said = { done: words.done, bad_token: words.bad, invalid_input: words.bad, slow_down: slowDown, unavailable }
  const data = Object.entries(said).map(([code, text]) => `data-${code}="${text}"`)
  const field =
    'field' in words
      ? `<input type="password" name="password" minlength="10" maxlength="200" required autocomplete="new-password" aria-label="${words.field}">`
      : ''
  return `<!doctype html>
<html lang="${locale}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>${words.title}</title><style>${style}</style></head>
<body><h1>${words.title}</h1><p>${words.text}</p><form ${data.join(' ')}>${field}<button>${words.button}</button></form><p role="status"></p>
<noscript><p>${noscript}</p></noscript><script>${script}</script></body></html>
`
}

/** A handler that sends the page in the browser's language. */
const sender = (which: 'verify' | 'reset') => {
  const pages = Object.fromEntries(locales.map((locale) => [locale, page(locale, which)])) as Record<Locale, string>
  return async (ctx: Context) => sendPage(ctx, pages[(ctx.acceptsLanguages(...locales) || 'en') as Locale], allowed)
}
export const sendVerifyPage = sender('verify')
export const sendResetPage = sender('reset')
