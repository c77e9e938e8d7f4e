import { randomBytes } from 'node:crypto'
import type { Readable } from 'node:stream'
import { parse as parseCsv } from 'csv-parse/sync'
import { v7 as newId } from 'uuid'
import { type Knex, retryConflicts } from '../platform/db.ts'
import { firstLines } from './first-lines.ts'
import { ImportedProduct, importedFields, requiredFields } from './schema.ts'
import { flushCommits, upsertProducts } from './store.ts'

export interface Counts {
  /** Lines read so far, the header of a CSV file among them. */
  lines: number
  created: number
  changed: number
  unchanged: number
  refused: number
}

interface Options {
  format: 'csv' | 'jsonl'
  /** Told after every thousand products written. */
  onProgress?(counts: Counts): void
  /** Told of each line that is not imported. */
  onRefused?(line: number, reason: string): void
}

/** The text cannot be read on; the lines before are imported. */
export class UnreadableFile extends Error {
  override name = 'UnreadableFile'
}

/** A record with the number of its first line: what it says, or why it says nothing. */
type Entry = { line: number } & ({ record: unknown } | { fault: string })

/**
 * Adds or changes products by sku from CSV with a header, or one JSON object per line (UTF-8). Each line is imported
 * whole or refused with its reason, and the rest goes on. Memory holds some thousand lines, and 32 bytes for each sku seen.
 * Throws UnreadableFile where the text or its header makes no sense.
 */
export async function importCatalogue(knex: Knex, source: Readable, { format, onProgress, onRefused }: Options) {
  const counts: Counts = { lines: 0, created: 0, changed: 0, unchanged: 0, refused: 0 }
  const firstLineOf = firstLines()
  let batch: (ImportedProduct & { id: string })[] = []
  // Two batches are written while the next is read. No two have a sku in common, so their order does not matter.
  const writing = new Set<Promise<void>>()
  const random = randomness()

  const refuse = (line: number, reason: string) => {
    counts.refused++
    onRefused?.(line, reason)
  }
  const write = async (products: typeof batch) => {
    // The words of its updates are noted before those of its inserts, so that it and another writer can wait in a circle.
    const { created, changed } = await retryConflicts(() => upsertProducts(knex, products))
    counts.created += created
    counts.changed += changed
    counts.unchanged += products.length - created - changed
    onProgress?.(counts)
  }
  const take = (entry: Entry) => {
    if ('fault' in entry) return refuse(entry.line, entry.fault)
    const read = ImportedProduct.safeParse(entry.record)
    if (!read.success) return refuse(entry.line, read.error.issues.map(faultOf).join('; '))
    const first = firstLineOf(read.data.sku, entry.line)
    if (first !== undefined) return refuse(entry.line, `sku: ${read.data.sku} is in line ${first} already`)
    // Given a random part, uuid counts nothing within a millisecond, so the line does: a list of the newest keeps the order
    // of the file.
    batch.push({ ...read.data, id: newId({ random: random(), seq: entry.line }) })
  }
  const flush = async () => {
    if (writing.size === 2) await Promise.race(writing)
    const one: Promise<void> = write(batch).then(() => void writing.delete(one))
    // One that failed stays, for the awaits to meet; until then it is not unhandled.
    one.catch(() => undefined)
    writing.add(one)
    batch = []
  }

  const finish = async () => {
    await flush()
    await Promise.all(writing)
    await flushCommits(knex)
  }

  const chunks = linesOf(source, counts)
  try {
    for await (const entries of format === 'csv' ? csvEntries(chunks) : jsonEntries(chunks))
      for (const entry of entries) {
        take(entry)
        if (batch.length === 1000) await flush()
      }
    await finish()
  } catch (error) {
    // What was read before the fault is imported; where that fails, it is what there is to tell.
    if (error instanceof UnreadableFile) await finish()
    throw error
  } finally {
    await Promise.allSettled(writing)
  }
  return counts
}

/** 16 random bytes at a time of many: to ask for them one by one takes a fifth of the time of a line. */
function randomness() {
  let bytes = randomBytes(16_000)
  let used = 0
  return () => {
    if (used === bytes.length) {
      bytes = randomBytes(16_000)
      used = 0
    }
    used += 16
    return bytes.subarray(used - 16, used)
  }
}

const faultOf = (issue: { code: string; path: PropertyKey[]; message: string; keys?: string[] }) =>
  issue.code === 'unrecognized_keys'
    ? // As JSON: whoever wrote the file has no say in what the terminal does.
      `${issue.keys?.map((key) => JSON.stringify(key)).join(', ')}: is not a known field`
    : `${issue.path.join('.') || 'the line'}: ${issue.message}`

interface Line {
  number: number
  /** Undefined where it is longer than any product can be. */
  text: string | undefined
}

const longestLine = 128 * 1024

/** Lines of a stream of UTF-8, in one array for each chunk read. */
async function* linesOf(source: Readable, counts: Counts): AsyncGenerator<Line[]> {
  const decoder = new TextDecoder('utf-8', { fatal: true })
  let rest = ''
  let tooLong = false
  const cut = (text: string): Line[] => {
    const parts = (rest + text).split('\n')
    rest = parts.pop() as string
    const lines = parts.map((part) => {
      const fits = !tooLong && part.length <= longestLine
      tooLong = false
      return { number: ++counts.lines, text: fits ? part.replace(/\r$/, '') : undefined }
    })
    if (rest.length > longestLine) {
      rest = ''
      tooLong = true
    }
    return lines
  }
  const decode = (chunk?: Uint8Array) => {
    try {
      return decoder.decode(chunk, { stream: chunk !== undefined })
    } catch {
      throw new UnreadableFile(`the text after line ${counts.lines} is not UTF-8`)
    }
  }
  for await (const chunk of source) yield cut(decode(typeof chunk === 'string' ? Buffer.from(chunk) : chunk))
  const end = cut(decode())
  if (rest !== '' || tooLong) end.push(...cut('\n'))
  yield end
}

async function* jsonEntries(chunks: AsyncIterable<Line[]>): AsyncGenerator<Entry[]> {
  for await (const lines of chunks)
    yield lines
      .filter(({ text }) => text === undefined || text.trim() !== '')
      .map(({ number: line, text }) => {
        if (text === undefined) return { line, fault: 'the line is too long' }
        try {
          return { line, record: JSON.parse(text) }
        } catch {
          return { line, fault: 'the line is not JSON' }
        }
      })
}

interface RawRecord {
  line: number
  text: string
}

/** Reads CSV by records whose quotes are whole, so that a quote gone astray costs its own line and no other. */
async function* csvEntries(chunks: AsyncIterable<Line[]>): AsyncGenerator<Entry[]> {
  let header: ReturnType<typeof readHeader> | undefined
  let waiting: Line[] = []
  const read = (last: boolean): Entry[] => {
    const { records, faults, open } = recordsIn(waiting, last)
    waiting = open
    if (!header) {
      const first = records.shift()
      const [fault] = faults
      if (fault && fault.line < (first?.line ?? Number.POSITIVE_INFINITY))
        throw new UnreadableFile(`the header, line ${fault.line}: ${fault.fault}`)
      if (!first) return []
      header = readHeader(first.text)
    }
    return [...faults, ...parseRecords(records, header)].sort((a, b) => a.line - b.line)
  }
  for await (const lines of chunks) {
    waiting.push(...lines)
    yield read(false)
  }
  yield read(true)
  if (!header) throw new UnreadableFile('the file has no header')
}

function readHeader(text: string) {
  const delimiter = text.includes(',') ? ',' : ';'
  const [columns = []] = fieldsOf([text], delimiter) ?? []
  const names = columns.map((column) => column.trim())
  const unknown = names.filter((name) => !importedFields.includes(name))
  const missing = requiredFields.filter((name) => !names.includes(name))
  const twice = names.filter((name, i) => names.indexOf(name) !== i)
  const faults = [
    missing.length > 0 && `lacks ${missing.join(', ')}`,
    unknown.length > 0 && `has ${unknown.map((name) => JSON.stringify(name)).join(', ')}`,
    twice.length > 0 && `has ${twice.join(', ')} twice`,
  ].filter(Boolean)
  if (faults.length > 0)
    throw new UnreadableFile(`the header ${faults.join(' and ')}; its columns are ${importedFields.join(', ')}`)
  return { names, delimiter }
}

/** How far a quoted field may reach, which is a description of nothing but line ends: then its opening quote is taken to be a mistake. */
const mostLinesOfRecord = 10_001

/** Joins lines to records. `open` is what needs more lines; nothing does when these are the last. */
function recordsIn(lines: Line[], last: boolean) {
  const records: RawRecord[] = []
  const faults: { line: number; fault: string }[] = []
  let at = 0
  for (; at < lines.length; at++) {
    const { number: line, text: first } = lines[at] as Line
    if (first === undefined) faults.push({ line, fault: 'the line is too long' })
    if (!first?.trim()) continue
    let text = first
    let end = at
    let quotes = text.includes('"') ? quotesOf(text) : 'whole'
    while (quotes === 'open' && end + 1 < lines.length && end - at < mostLinesOfRecord) {
      const more = (lines[++end] as Line).text
      if (more === undefined || text.length + more.length > longestLine) break
      text += `\n${more}`
      if (more.includes('"')) quotes = quotesOf(text)
    }
    if (quotes === 'whole') {
      records.push({ line, text })
      at = end
    } else if (quotes === 'open' && !last && end + 1 === lines.length && end - at < mostLinesOfRecord) break
    else faults.push({ line, fault: 'a quote is not closed, or not doubled within quotes' })
  }
  return { records, faults, open: lines.slice(at) }
}

/** Whether a text ends within quotes (`open`), has text right after them (`broken`), or neither. */
function quotesOf(text: string): 'whole' | 'open' | 'broken' {
  for (let i = 0; i < text.length; i++) {
    const startsField = i === 0 || ',;\n'.includes(text[i - 1] as string)
    if (text[i] !== '"' || !startsField) continue
    for (i++; ; i += 2) {
      i = text.indexOf('"', i)
      if (i === -1) return 'open'
      if (text[i + 1] !== '"') break
    }
    const next = text[i + 1]
    if (next !== undefined && next !== ',' && next !== ';') return 'broken'
  }
  return 'whole'
}

function parseRecords(records: RawRecord[], { names, delimiter }: ReturnType<typeof readHeader>): Entry[] {
  const together = fieldsOf(
    records.map((record) => record.text),
    delimiter,
  )
  return records.map(({ line, text }, i) => {
    const fields = together ? together[i] : fieldsOf([text], delimiter)?.[0]
    if (!fields) return { line, fault: 'the line is not CSV' }
    if (fields.length !== names.length)
      return { line, fault: `the line has ${fields.length} fields, and the header ${names.length}` }
    return { line, record: Object.fromEntries(names.map((name, n) => [name, valueIn(name, fields[n] as string)])) }
  })
}

/** The fields of each text; undefined where a text is not one record of CSV. */
function fieldsOf(texts: string[], delimiter: string): string[][] | undefined {
  try {
    const rows: string[][] = parseCsv(texts.join('\n'), { delimiter, record_delimiter: '\n', relax_column_count: true })
    return rows.length === texts.length ? rows : undefined
  } catch {
    return undefined
  }
}

const valueIn = (name: string, text: string) => {
  if (name !== 'price' && name !== 'stock') return text
  if (name === 'stock' && text.trim() === '') return undefined
  return /^\s*\d{1,16}\s*$/.test(text) ? Number(text) : text
}
