import type { Picture } from '../events.ts'
import type { Db, Knex, Statement } from '../platform/db.ts'
import { orderOf, type Position } from './cursor.ts'
import type { ImportedProduct, NewProduct, ProductFacts, ProductQuery } from './schema.ts'

/** A product as the API shows it, from `p` and its stock `s`; its JSON is written by PostgreSQL. */
const shown = `p.id, p.sku, p.name, p.description, p.category, p.price, p.currency,
    case when p.image_large is not null
      then json_build_object('large', '/image/' || p.image_large, 'small', '/image/' || p.image_small) end as image,
    s.on_hand as stock, p.version,
    p.created_at as "createdAt", p.updated_at as "updatedAt"`

export interface Found {
  version: number
  stock: number
  /** The product as JSON text. */
  item: string
}

const byId: Statement = {
  name: 'product_by_id',
  text: `
    select page.version, page.stock, row_to_json(page)::text as item
    from (
      select ${shown}
      from products.product p join products.stock s on s.product_id = p.id
      where p.id = $1 and p.deleted_at is null
    ) page`,
}

/** A live product, or undefined. */
export const findProduct = async (db: Db, id: string) => (await db.run<Found>(byId, [id]))[0]

type Filter = Pick<ProductQuery, 'category' | 'minPrice' | 'maxPrice' | 'inStock' | 'sort'> & {
  /** Words as a person types them, or a tsquery made by `spelledAlike`. */
  words?: { text: string; alike: boolean }
}

/** A piece of SQL with `?` for each value. */
interface Sql {
  text: string
  values: unknown[]
}
const sql = (text: string, ...values: unknown[]): Sql => ({ text, values })
/** All of the conditions that there are; the text is empty where there is none. */
const and = (conditions: (Sql | false | undefined)[]): Sql => {
  const held = conditions.filter((c) => !!c)
  return { text: held.map((c) => c.text).join(' and '), values: held.flatMap((c) => c.values) }
}

/** What each order sorts by, and how a cursor's value is compared with it. The expressions are those of the indexes. */
const sortKeys = {
  created: { key: 'p.created_at', value: '?::timestamptz' },
  name: { key: 'lower(p.name collate "C")', value: 'lower(?::text collate "C")' },
  price: { key: 'p.price', value: '?::bigint' },
}

/** A page of 100 and one more. The planner takes a limit it does not know to be a tenth of the table, so it is told. */
const mostRows = 101

/**
 * How many products are looked through in order before every match is collected and sorted instead. A word in one of
 * 140 products or more fills its page from these, and a rarer one has few to collect; at 1,000,000 products neither
 * takes more than some 10 ms, where the planner's choice between the two took up to 240 ms for a word it did not know.
 */
const lookAhead = 3000

/** A list that is asked for: its order, and its conditions by whether the index of that order answers them. */
interface Listing {
  /** Tells apart every text that can come of a filter, as the name of a prepared statement. */
  name: string
  key: string
  sorted(key: string, id: string): string
  indexed: Sql
  others: Sql
  limit: number
}

/**
 * JSON texts of the `limit` products after `position`. What an index holds in order goes the fast way, as prepared
 * statements of a bounded number of shapes; the rest goes through the pool, so that none of it stands before a fast one.
 */
export async function listProducts(db: Db, filter: Filter, position: Position | undefined, limit: number) {
  const listing = listingOf(filter, position, limit)
  const rows = await (listing.others.text === '' ? listByIndex(db, listing) : listByLookAhead(db, listing))
  return rows.map((row) => row.item)
}

function listingOf(filter: Filter, position: Position | undefined, limit: number): Listing {
  const { sort, category, minPrice, maxPrice, words, inStock } = filter
  const direction = sort.startsWith('-') ? 'desc' : 'asc'
  const { key, value } = sortKeys[orderOf(sort)]
  const isByPrice = orderOf(sort) === 'price'
  const after = direction === 'asc' ? '>' : '<'
  const priced = [
    minPrice !== undefined && sql('p.price >= ?', minPrice),
    maxPrice !== undefined && sql('p.price <= ?', maxPrice),
  ]
  const matches = words?.alike ? '?::tsquery' : "websearch_to_tsquery('pg_catalog.english', ?)"
  const stocked = `exists (select from products.stock s where s.product_id = p.id and s.on_hand ${inStock ? '>' : '='} 0)`
  return {
    name: [
      sort,
      category && 'category',
      minPrice !== undefined && 'min',
      maxPrice !== undefined && 'max',
      words && (words.alike ? 'alike' : 'words'),
      inStock !== undefined && (inStock ? 'some' : 'none'),
      position && 'after',
    ]
      .filter(Boolean)
      .join(' '),
    key,
    sorted: (by, id) => `order by ${by} ${direction}, ${id} ${direction}`,
    indexed: and([
      sql('p.deleted_at is null'),
      category ? sql('p.category = ?', category) : false,
      ...(isByPrice ? priced : []),
      position && sql(`(${key}, p.id) ${after} (${value}, ?::uuid)`, position.key, position.id),
    ]),
    others: and([
      ...(isByPrice ? [] : priced),
      words && sql(`p.document @@ ${matches}`, words.text),
      inStock !== undefined && sql(stocked),
    ]),
    limit,
  }
}

function listByIndex(db: Db, { name, key, sorted, indexed, limit }: Listing) {
  const text = `
    select row_to_json(page)::text as item
    from (
      select ${shown}
      from products.product p join products.stock s on s.product_id = p.id
      where ${indexed.text}
      ${sorted(key, 'p.id')}
      limit ${mostRows}
    ) page
    limit ?`
  return db.run<{ item: string }>({ name, text: numbered(text) }, [...indexed.values, limit])
}

/** Fills the page from the first products in order; only where those are not enough, from all that match. */
async function listByLookAhead(db: Db, { name, key, sorted, indexed, others, limit }: Listing) {
  const text = `
    with near as materialized (
      select p.id, p.key
      from (
        select p.id, p.price, p.document, ${key} as key
        from products.product p
        where ${indexed.text}
        ${sorted(key, 'p.id')}
        limit ${lookAhead}
      ) p
      where ${others.text}
      -- Said again: where the database joins with the stock from the other side, the order of what is within is lost.
      ${sorted('p.key', 'p.id')}
      limit ?
    ), enough as materialized (
      select count(*) = ? as yes from near
    ), rest as materialized (
      select p.id, ${key} as key
      from products.product p
      where not (select yes from enough) and ${indexed.text} and ${others.text}
    ), found as (
      select near.id, near.key from near where (select yes from enough)
      union all
      (select rest.id, rest.key from rest ${sorted('rest.key', 'rest.id')} limit ?)
    )
    select row_to_json(page)::text as item
    from (
      select ${shown}
      from (select found.id, found.key from found limit ${mostRows}) found
      join products.product p on p.id = found.id
      join products.stock s on s.product_id = p.id
      ${sorted('found.key', 'found.id')}
    ) page`
  const conditions = [...indexed.values, ...others.values]
  const values = [...conditions, limit, limit, ...conditions, limit] as Knex.RawBinding[]
  const { rows } = await db.knex.raw(text, values).options({ name })
  return rows as { item: string }[]
}

/** Writes each `?` as PostgreSQL's own $1, $2 …, which a prepared statement takes. */
const numbered = (text: string) => {
  let n = 0
  return text.replace(/\?/g, () => `$${++n}`)
}

/**
 * A tsquery for what `text` may have meant: each word or one of the known words most like it, or that it begins.
 * Empty where nothing is known that is like it.
 */
export async function spelledAlike(knex: Knex, text: string): Promise<string> {
  const words = text.toLowerCase().match(/[\p{L}\p{M}\p{N}]+/gu) ?? []
  const { rows } = await knex.raw(
    `select coalesce(
       (select string_agg(plainto_tsquery('pg_catalog.english', alike.word)::text, ' | ')
        from (
          select known.word
          from products.word known
          where (known.word operator(public.%) asked.word or known.word like asked.word || '%')
            -- A stop word, such as with, is none of a search.
            and numnode(plainto_tsquery('pg_catalog.english', known.word)) > 0
          order by public.similarity(known.word, asked.word) desc, known.word
          limit 4
        ) alike),
       plainto_tsquery('pg_catalog.english', asked.word)::text) as query
     from unnest(?::text[]) asked (word)`,
    [words.slice(0, 10)],
  )
  return rows
    .map((row: { query: string }) => row.query)
    .filter((query: string) => query !== '')
    .map((query: string) => `(${query})`)
    .join(' & ')
}

/** Adds a product with its stock; fails on the constraint `product_sku_key` where a live one has its sku. */
export async function addProduct(knex: Knex, id: string, product: NewProduct): Promise<Found> {
  const { rows } = await knex.raw(
    `with p as (
       insert into products.product (id, sku, name, description, category, price, currency)
       values (?, ?, ?, ?, ?, ?, ?)
       returning *
     ), s as (
       insert into products.stock (product_id, on_hand) select p.id, ?::integer from p returning product_id, on_hand
     )
     select page.version, page.stock, row_to_json(page)::text as item
     from (select ${shown} from p join s on s.product_id = p.id) page`,
    [id, ...factsOf(product), product.stock],
  )
  return rows[0]
}

const factsOf = (p: ProductFacts) => [p.sku, p.name, p.description, p.category, p.price, p.currency]

/** Holds for the given versions of a product, or any for `*`; takes `versionsTwice`. */
const inVersions = '(?::integer[] is null or version = any (?::integer[]))'
const versionsTwice = (versions: number[] | '*') => (versions === '*' ? [null, null] : [versions, versions])

/** Replaces all facts if the product is live and in one of `versions`; undefined where it is not. */
export async function replaceProduct(knex: Knex, id: string, versions: number[] | '*', facts: ProductFacts) {
  const { rows } = await knex.raw(
    `with p as (
       update products.product
       set sku = ?, name = ?, description = ?, category = ?, price = ?, currency = ?,
         version = version + 1, updated_at = now()
       where id = ? and deleted_at is null and ${inVersions}
       returning *
     )
     select page.version, page.stock, row_to_json(page)::text as item
     from (select ${shown} from p join products.stock s on s.product_id = p.id) page`,
    [...factsOf(facts), id, ...versionsTwice(versions)] as Knex.RawBinding[],
  )
  return rows[0] as Found | undefined
}

/** Deletes a live product in one of `versions`, so that its sku is free again; undefined where there was none. */
export async function deleteProduct(
  knex: Knex,
  id: string,
  versions: number[] | '*',
): Promise<{ image: Picture | null } | undefined> {
  const { rows } = await knex.raw(
    `update products.product
     set deleted_at = now(), updated_at = now(), version = version + 1
     where id = ? and deleted_at is null and ${inVersions}
     returning image_large as large, image_small as small`,
    [id, ...versionsTwice(versions)] as Knex.RawBinding[],
  )
  return rows[0] && { image: pictureOf(rows[0]) }
}

const pictureOf = ({ large, small }: { large: string | null; small: string | null }): Picture | null =>
  large && small ? { large, small } : null

/** Sets or clears the image of a live product in one of `versions`, and says what it was; undefined where there is none. */
export async function setImage(
  trx: Knex.Transaction,
  id: string,
  versions: number[] | '*',
  image: Picture | null,
): Promise<(Found & { replaced: Picture | null }) | undefined> {
  const { rows } = await trx.raw(
    `with before as (
       select id, image_large, image_small from products.product
       where id = ? and deleted_at is null and ${inVersions}
       for update
     ), p as (
       update products.product set image_large = ?, image_small = ?, version = version + 1, updated_at = now()
       where id = (select id from before)
       returning *
     )
     select page.version, page.stock, row_to_json(page)::text as item, before.image_large as large, before.image_small as small
     from before, (select ${shown} from p join products.stock s on s.product_id = p.id) page`,
    [id, ...versionsTwice(versions), image?.large ?? null, image?.small ?? null] as Knex.RawBinding[],
  )
  return rows[0] && { ...rows[0], replaced: pictureOf(rows[0]) }
}

/** Which of these live products have no image, by sku. */
export async function skusWithoutImage(knex: Knex, skus: string[]): Promise<string[]> {
  const { rows } = await knex.raw(
    'select sku from products.product where sku = any (?) and deleted_at is null and image_large is null',
    [skus],
  )
  return rows.map((row: { sku: string }) => row.sku)
}

/** Gives images to live products that have none, by sku. */
export const addImages = (knex: Knex, images: (Picture & { sku: string })[]) =>
  knex.raw(
    `update products.product p
     set image_large = input.large, image_small = input.small, version = p.version + 1, updated_at = now()
     from json_to_recordset(?::json) as input (sku text, large text, small text)
     where p.sku = input.sku and p.deleted_at is null and p.image_large is null`,
    [JSON.stringify(images)],
  )

/** The version of a live product, or undefined. */
export async function versionOf(knex: Knex, id: string): Promise<number | undefined> {
  const { rows } = await knex.raw('select version from products.product where id = ? and deleted_at is null', [id])
  return rows[0]?.version
}

/** Sets the stock of a live product; undefined where there is none. */
export async function setStock(knex: Knex, id: string, stock: number): Promise<number | undefined> {
  const { rows } = await knex.raw(
    `update products.stock s set on_hand = ?
     from products.product p
     where s.product_id = ? and p.id = s.product_id and p.deleted_at is null
     returning s.on_hand as stock`,
    [stock, id],
  )
  return rows[0]?.stock
}

/** Adds to the stock of a live product, or takes from it; undefined where there is none, or it would leave its range. */
export async function changeStock(knex: Knex, id: string, change: number): Promise<number | undefined> {
  const { rows } = await knex.raw(
    `update products.stock s set on_hand = s.on_hand + ?::integer
     from products.product p
     where s.product_id = ? and p.id = s.product_id and p.deleted_at is null
       and s.on_hand::bigint + ?::integer between 0 and 1000000000
     returning s.on_hand as stock`,
    [change, id, change],
  )
  return rows[0]?.stock
}

/** The stock of a live product, or undefined. */
export async function stockOf(knex: Knex, id: string): Promise<number | undefined> {
  const { rows } = await knex.raw(
    `select s.on_hand as stock
     from products.stock s join products.product p on p.id = s.product_id
     where s.product_id = ? and p.deleted_at is null`,
    [id],
  )
  return rows[0]?.stock
}

/**
 * Adds or changes products by sku, each sku at most once, in one statement. One that is as told already is not
 * written, so that its version stays. Returns how many were created and how many changed; they are on the disk only
 * after `flushCommits`.
 */
export async function upsertProducts(knex: Knex, products: (ImportedProduct & { id: string })[]) {
  const { rows } = await knex.raw(
    `with input as materialized (
       select line.* from set_config('synchronous_commit', 'off', true),
         json_to_recordset(?::json) as line (id uuid, sku text, name text, description text, category text,
           price bigint, currency text, stock integer)
     ), known as materialized (
       select input.sku, p.id, s.on_hand,
         (p.name, p.description, p.category, p.price, p.currency)
           is distinct from (input.name, input.description, input.category, input.price, input.currency) as differs
       from input
       join products.product p on p.sku = input.sku and p.deleted_at is null
       left join products.stock s on s.product_id = p.id
     ), written as (
       insert into products.product as p (id, sku, name, description, category, price, currency)
       select input.id, input.sku, input.name, input.description, input.category, input.price, input.currency
       from input left join known on known.sku = input.sku
       where known.differs is not false
       order by input.sku
       on conflict (sku) where deleted_at is null do update
       set name = excluded.name, description = excluded.description, category = excluded.category,
         price = excluded.price, currency = excluded.currency, version = p.version + 1, updated_at = now()
       returning p.id, p.sku
     ), stocked as (
       insert into products.stock as s (product_id, on_hand)
       select coalesce(written.id, known.id), coalesce(input.stock, 0)
       from input
       left join written on written.sku = input.sku
       left join known on known.sku = input.sku
       where written.id = input.id or known.on_hand <> input.stock or (known.id is null and input.stock is not null)
       order by 1
       on conflict (product_id) do update set on_hand = excluded.on_hand
       returning s.product_id
     )
     select
       (select count(*) from written join input on input.id = written.id) as created,
       (select count(*) from (select id from written union select product_id from stocked) touched) as touched`,
    [JSON.stringify(products)],
  )
  const { created, touched } = rows[0] as { created: number; touched: number }
  return { created, changed: touched - created }
}

/** Returns once all that was committed before is on the disk: a commit takes those before it along, if it writes anything. */
export const flushCommits = (knex: Knex) => knex.raw("select pg_logical_emit_message(true, 'bodega', 'flush')")

/** Up to `limit` live products with their stock, in order of id after `after`; an empty one is before all. */
export async function exportPage(trx: Knex.Transaction, after: string, limit: number) {
  const { rows } = await trx.raw(
    `select p.id, p.sku, p.name, p.description, p.category, p.price, p.currency, s.on_hand as stock
     from products.product p join products.stock s on s.product_id = p.id
     where p.deleted_at is null and p.id > coalesce(nullif(?, '')::uuid, '00000000-0000-0000-0000-000000000000')
     order by p.id limit ?`,
    [after, limit],
  )
  return rows as (NewProduct & { id: string })[]
}
