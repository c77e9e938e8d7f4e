import { z } from 'zod'
import { PictureLinks } from '../platform/pictures.ts'
import { NextCursor } from '../platform/routes.ts'

// An int of zod's is within ±(2^53 − 1) by itself; `abort` keeps one fault from being told twice.
const whole = (min: number, max: number) => {
  const error = `must be a whole number from ${min} to ${max}`
  const int = z.int({ error, abort: true }).min(min, error)
  return max === Number.MAX_SAFE_INTEGER ? int : int.max(max, error)
}

// PostgreSQL's text cannot hold U+0000, and half a surrogate pair is no text anywhere.
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const oneLine = /^[^\u0000-\u001f\u007f\ufffd]*$/u
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is refused
const manyLines = /^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f\ufffd]*$/u
const isWellFormed = (text: string) => text.isWellFormed()

const label = (max: number) =>
  z
    .string('must be text')
    .trim()
    .min(1, 'must not be empty')
    .max(max, `must have at most ${max} characters`)
    .regex(oneLine, 'must be plain text on one line')
    .refine(isWellFormed, 'must be plain text on one line')

const currencies = new Set(Intl.supportedValuesOf('currency'))
const mostStock = 1_000_000_000

const facts = {
  sku: label(64).meta({ examples: ['MUG-03-BLUE'] }),
  name: label(200).meta({ examples: ['Mug, blue'] }),
  description: z
    .string('must be text')
    .trim()
    .max(10_000, 'must have at most 10000 characters')
    .regex(manyLines, 'must be plain text')
    .refine(isWellFormed, 'must be plain text')
    // One kind of line end, whoever wrote it: CSV cannot carry two.
    .overwrite((text) => text.replace(/\r\n?/g, '\n'))
    .default(''),
  category: label(64).meta({ examples: ['kitchen'] }),
  price: whole(0, Number.MAX_SAFE_INTEGER).meta({ description: 'Minor units of the currency', examples: [1250] }),
  currency: z
    .string('must be text')
    .regex(/^[A-Z]{3}$/, { error: 'must be three capital letters', abort: true })
    .refine((code) => currencies.has(code), 'must be an ISO 4217 currency')
    .meta({ description: 'ISO 4217', examples: ['EUR'] }),
}
const stock = whole(0, mostStock)

/** All facts of a product; a PUT replaces every one of them. */
export const ProductFacts = z.strictObject(facts)
export type ProductFacts = z.output<typeof ProductFacts>

export const NewProduct = z.strictObject({ ...facts, stock: stock.default(0) })
export type NewProduct = z.output<typeof NewProduct>

/** A line of an import; without `stock` a known product keeps what it has, and a new one begins with none. */
export const ImportedProduct = z.strictObject({ ...facts, stock: stock.optional() })
export type ImportedProduct = z.output<typeof ImportedProduct>
export const importedFields = Object.keys(ImportedProduct.shape)
export const requiredFields = ['sku', 'name', 'category', 'price', 'currency']

export const StockChange = z
  .strictObject({
    stock: stock.optional().describe('What there is now'),
    change: whole(-mostStock, mostStock).optional().describe('Added to what there is; below zero taken from it'),
  })
  .refine((body) => (body.stock === undefined) !== (body.change === undefined), 'must have either stock or change')
  .meta({ examples: [{ change: 12 }] })

export const Product = z.object({
  id: z.uuid(),
  sku: z.string().meta({ examples: ['MUG-03-BLUE'] }),
  name: z.string().meta({ examples: ['Mug, blue'] }),
  description: z.string().meta({ examples: ['Holds 0.3 l, and may go into the dishwasher.'] }),
  category: z.string().meta({ examples: ['kitchen'] }),
  price: z.int().meta({ description: 'Minor units of the currency', examples: [1250] }),
  currency: z.string().meta({ description: 'ISO 4217', examples: ['EUR'] }),
  image: PictureLinks.nullable(),
  stock: z.int(),
  version: z.int().describe('The ETag of version 3 is "v3"'),
  createdAt: z.iso.datetime({ offset: true }),
  updatedAt: z.iso.datetime({ offset: true }),
})
export type Product = z.output<typeof Product>

export const ProductPage = z.object({
  items: z.array(Product),
  next: NextCursor,
})

export const ProductStock = z.object({ id: z.uuid(), stock: z.int() })

const sorts = ['created', '-created', 'name', '-name', 'price', '-price'] as const

// A query is text; the document calls it the number that it must be.
const digits = (max: number, min = 0) =>
  z
    .string()
    .regex(/^[0-9]{1,16}$/, 'must be a whole number')
    .transform(Number)
    .refine((n) => n >= min && n <= max, `must be from ${min} to ${max}`)
    .meta({ type: 'integer', minimum: min, maximum: max, pattern: undefined })

/** The query of the list. An empty `q` or `category`, as a form sends it, filters nothing. */
export const ProductQuery = z.strictObject({
  q: z
    .string()
    .trim()
    .max(200)
    .regex(oneLine, 'must be plain text')
    .refine(isWellFormed)
    .optional()
    .describe('Words to search for'),
  category: z.string().trim().max(64).regex(oneLine, 'must be plain text').refine(isWellFormed).optional(),
  minPrice: digits(Number.MAX_SAFE_INTEGER).optional().describe('Minor units'),
  maxPrice: digits(Number.MAX_SAFE_INTEGER).optional().describe('Minor units'),
  inStock: z
    .enum(['true', 'false'])
    .transform((text) => text === 'true')
    .optional(),
  sort: z.enum(sorts).default('-created').describe('A leading minus sorts downwards'),
  limit: digits(100, 1).default(20),
  // A name of 200 characters of 4 bytes makes one of 1,174.
  cursor: z.string().max(1200).optional().describe('The `next` of the page before, with the same filter and sort'),
})
export type ProductQuery = z.output<typeof ProductQuery>
