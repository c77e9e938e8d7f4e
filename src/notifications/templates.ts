import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Eta } from 'eta'
import i18next from 'i18next'

const languages = ['en', 'de', 'hi'] as const
export type Language = (typeof languages)[number]
/** The language of who has none, or one without texts. */
export const fallback: Language = 'en'

export interface Texts {
  /** The text of a key that nothing but the shop's name goes into; made once. */
  text(key: string): string
  /** The text of a key with values put in as they are: escape afterwards. */
  fill(key: string, values: Record<string, string>): string
  has(key: string): boolean
}

/** Placeholders that differ from mail to mail stand for themselves, so that `fill` finds them. */
const placeholders = Object.fromEntries(['name', 'number', 'since', 'mails'].map((name) => [name, `{{${name}}}`]))

/** The texts of each language; what a language lacks comes in English. */
export async function openTexts(shop: string): Promise<Record<Language, Texts>> {
  const read = (language: Language) =>
    JSON.parse(readFileSync(join(import.meta.dirname, 'locales', `${language}.json`), 'utf8'))
  const instance = i18next.createInstance()
  await instance.init({
    lng: fallback,
    fallbackLng: fallback,
    supportedLngs: languages,
    resources: Object.fromEntries(languages.map((language) => [language, { translation: read(language) }])),
    interpolation: { escapeValue: false, defaultVariables: { shop, ...placeholders } },
    showSupportNotice: false,
  })
  const textsOf = (language: Language): Texts => {
    const t = instance.getFixedT(language)
    // Some eighty keys, each looked up once: that costs i18next 10 to 50 µs, and a mail has ten of them.
    const made = new Map<string, string>()
    const text = (key: string) => {
      const found = made.get(key) ?? t(key)
      made.set(key, found)
      return found
    }
    const fill: Texts['fill'] = (key, values) => text(key).replace(/\{\{(\w+)\}\}/g, (_, name) => values[name] ?? '')
    return { text, fill, has: (key) => instance.exists(key) }
  }
  return Object.fromEntries(languages.map((language) => [language, textsOf(language)])) as Record<Language, Texts>
}

/** The language of mails for a BCP 47 locale: `de-AT` → `de`, and English for what there is no text in. */
export function languageOf(locale: string | null | undefined): Language {
  const primary = locale?.split(/[-_]/, 1)[0]?.toLowerCase()
  return languages.find((language) => language === primary) ?? fallback
}

/** Every template, compiled. HTML escapes what is put in; text leaves it as it is. */
export function openTemplates() {
  const html = load('html', new Eta({ autoEscape: true }))
  const text = load('text', new Eta({ autoEscape: false }))
  return {
    html: (template: string, values: object) => html.render(`@${template}`, values),
    text: (template: string, values: object) => text.render(`@${template}`, values),
  }
}

function load(folder: string, eta: Eta) {
  const dir = join(import.meta.dirname, 'templates', folder)
  for (const file of readdirSync(dir))
    eta.loadTemplate(`@${file.replace(/\.eta$/, '')}`, readFileSync(join(dir, file), 'utf8'))
  return eta
}
