import type { Knex } from '../platform/db.ts'
import { importedFields } from './schema.ts'
import { exportPage } from './store.ts'

/** Products read at once. */
const page = 1000

/**
 * The live products of one moment as text that `importCatalogue` takes for what is there already: CSV with a header, or
 * one JSON object per line.
 */
export async function* exportCatalogue(knex: Knex, format: 'csv' | 'jsonl'): AsyncGenerator<string, number> {
  const trx = await knex.transaction(null, { isolationLevel: 'repeatable read', readOnly: true })
  try {
    // Whoever reads may pause for longer than the 15 s of the login: a pager, or a slow line.
    await trx.raw(`set local idle_in_transaction_session_timeout = '10min'`)
    if (format === 'csv') yield `${importedFields.join(',')}\n`
    let count = 0
    for (let after = '', size = page; size === page; count += size) {
      const products = await exportPage(trx, after, page)
      size = products.length
      after = products.at(-1)?.id ?? after
      const lines = products.map(({ id: _, ...product }) => (format === 'csv' ? csv(product) : JSON.stringify(product)))
      if (size > 0) yield `${lines.join('\n')}\n`
    }
    return count
  } finally {
    await trx.rollback()
  }
}

const csv = (product: Record<string, string | number>) =>
  importedFields.map((field) => quoted(String(product[field]))).join(',')

/** Quoted only where a reader could take it for something else. */
const quoted = (text: string) => (/[",;\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
