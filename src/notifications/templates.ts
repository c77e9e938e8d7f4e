import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Eta } from 'eta'
import i18next from 'i18next'

const languages = ['en', 'de', 'hi'] as const
export type Language = (typeof languages)[number]
export const fallback: Language = 'en'

export type Translate = (key: string, values?: Record<string, unknown>) => string

/** The texts of a language; what a language lacks comes in English. Values are put in as they are: escape afterwards. */
export async function openTexts() {
  const texts = (language: Language) =>
    JSON.parse(readFileSync(join(import.meta.dirname, 'locales', `${language}.json`), 'utf8'))
  const instance = i18next.createInstance()
  await instance.init({
    fallbackLng: fallback,
    supportedLngs: languages,
    resources: Object.fromEntries(languages.map((language) => [language, { translation: texts(language) }])),
    interpolation: { escapeValue: false },
    showSupportNotice: false,
  })
  return {
    of: Object.fromEntries(languages.map((l) => [l, instance.getFixedT(l) as Translate])) as Record<
      Language,
      Translate
    >,
    has: (key: string) => instance.exists(key),
  }
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
