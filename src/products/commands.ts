import { createReadStream, createWriteStream } from 'node:fs'
import { rename, rm, stat } from 'node:fs/promises'
import { extname } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { readArchive, writeArchive } from '../platform/archive.ts'
import { ConfigError, config } from '../platform/config.ts'
import { type Db, openDb, outOfReach } from '../platform/db.ts'
import { openLog } from '../platform/log.ts'
import { openObjects } from '../platform/objects.ts'
import { openPictures } from '../platform/pictures.ts'
import { Problem } from '../platform/problem.ts'
import { drawingOf, paint } from './drawings.ts'
import { exportCatalogue } from './export.ts'
import { imageSizes } from './image.ts'
import { type Counts, importCatalogue, UnreadableFile } from './import.ts'
import { catalogue } from './seed.ts'
import { addImages, skusWithoutImage } from './store.ts'

const formats = { '.csv': 'csv', '.jsonl': 'jsonl', '.ndjson': 'jsonl' } as const

/** The format that the end of a file's name stands for; ConfigError where it stands for none. */
function formatOf(command: string, file: string | undefined): 'csv' | 'jsonl' {
  if (!file) throw new ConfigError('the command line', [`say which file: ${command} products.csv`])
  const end = extname(file).toLowerCase()
  if (!Object.hasOwn(formats, end))
    throw new ConfigError('the command line', [`${file} must end in ${Object.keys(formats).join(', ')}`])
  return formats[end as keyof typeof formats]
}

/** Standard input or output, as `-.csv` or `-.jsonl`. */
const isStandard = (file: string | undefined) => /^-\.[^/]+$/.test(file ?? '')

/**
 * Imports a file of products by its name's end: .csv, or .jsonl and .ndjson. Refused lines and progress go to standard
 * error, the counts to standard output. The exit code is 1 where a line was refused or the file cannot be read.
 */
export async function runImport(file: string | undefined, env: NodeJS.ProcessEnv) {
  const format = formatOf('import', file)
  await using db = openCatalogue(env)
  try {
    const size = isStandard(file) ? 0 : (await stat(file as string)).size
    const source = isStandard(file) ? process.stdin : createReadStream(file as string, { highWaterMark: 256 * 1024 })
    const showProgress = progress((counts) => {
      const percent = size === 0 ? '' : `${Math.floor((source.bytesRead / size) * 100)} % · `
      return `${percent}${total(counts)} products`
    })
    const counts = await importCatalogue(db.knex, source, {
      format,
      onProgress: showProgress,
      onRefused: (line, reason) => process.stderr.write(`${clear}line ${line} refused: ${reason}\n`),
    })
    process.stderr.write(clear)
    process.stdout.write(`${summary(counts)}\n`)
    if (counts.refused > 0) process.exitCode = 1
  } catch (error) {
    const why = whyStopped(error)
    if (!why) throw error
    process.stderr.write(`${clear}${file}: ${why}\n`)
    process.exitCode = 1
  }
}

/**
 * Writes the catalogue to a file whose name ends as for an import, which takes it as nothing new. The file is there whole
 * or not at all, unless it is standard output; the exit code is 1 where it cannot be written.
 */
export async function runExport(file: string | undefined, env: NodeJS.ProcessEnv) {
  const format = formatOf('export', file)
  await using db = openCatalogue(env)
  const unfinished = `${file}.${process.pid}.tmp`
  let products = 0
  try {
    await pipeline(
      async function* () {
        products = yield* exportCatalogue(db.knex, format)
      },
      isStandard(file) ? process.stdout : createWriteStream(unfinished, { flush: true }),
    )
    if (!isStandard(file)) await rename(unfinished, file as string)
    process.stderr.write(`${number(products)} products\n`)
  } catch (error) {
    await rm(unfinished, { force: true })
    const { code, message } = error as NodeJS.ErrnoException
    const why = outOfReach(error)
      ? `the database is out of reach (${message})`
      : /^E[A-Z]+$/.test(code ?? '') && `the file cannot be written (${code})`
    if (!why) throw error
    process.stderr.write(`${file}: ${why}\n`)
    process.exitCode = 1
  }
}

/** What stopped an import, in words; undefined where that is a fault of ours. */
function whyStopped(error: unknown) {
  const { code, message } = error as NodeJS.ErrnoException
  if (error instanceof UnreadableFile) return `${message}; the lines before are imported`
  if (/^(ENOENT|EACCES|EISDIR)$/.test(code ?? '')) return `the file cannot be read (${code})`
  if (outOfReach(error)) return `the database is out of reach (${message}); import the file again to go on`
  return undefined
}

/** Loads the example catalogue; again, it brings back what it says and leaves everything else. */
export async function runSeed(env: NodeJS.ProcessEnv) {
  await using db = openCatalogue(env)
  const lines = Readable.from(catalogue().map((product) => Buffer.from(`${JSON.stringify(product)}\n`)))
  const refused: string[] = []
  const counts = await importCatalogue(db.knex, lines, {
    format: 'jsonl',
    onRefused: (line, reason) => refused.push(`line ${line}: ${reason}`),
  })
  if (refused.length > 0) throw new Error(`the example catalogue is wrong: ${refused.join('; ')}`)
  process.stdout.write(`${summary(counts)}\n`)
  try {
    await addDrawings(db, env)
  } catch (error) {
    if (!(error instanceof Problem)) throw error
    process.stderr.write(`The pictures are missing: ${error.message} Seed again to add them.\n`)
    process.exitCode = 1
  }
}

/** Gives the example products that have no image the one that is drawn for them. */
async function addDrawings(db: Db, env: NodeJS.ProcessEnv) {
  const examples = catalogue()
  const skus = examples.map(({ sku }) => sku)
  const withoutImage = new Set(await skusWithoutImage(db.knex, skus))
  if (withoutImage.size === 0) return
  const c = config('products', env)
  using objects = openObjects(c)
  const images = openPictures({
    db,
    schema: 'products',
    objects,
    name: 'image',
    sizes: imageSizes,
    log: openLog(c.LOG_LEVEL, { role: 'products' }),
  })
  const undrawn = examples.filter(({ sku }) => withoutImage.has(sku))
  const drawings = [...Map.groupBy(undrawn, drawingOf)]
  while (drawings.length > 0) {
    const done = drawings.splice(0, 8).map(async ([drawing, products]) => {
      const picture = await images.keep(await paint(drawing, imageSizes))
      return products.map(({ sku }) => ({ sku, ...picture }))
    })
    await addImages(db.knex, (await Promise.all(done)).flat())
  }
  process.stdout.write(`${number(withoutImage.size)} with a picture now\n`)
}

function openCatalogue(env: NodeJS.ProcessEnv) {
  const c = config('products', env)
  const log = openLog(c.LOG_LEVEL, { role: 'products' })
  return openDb({ role: 'products', c, log })
}

const number = (n: number) => n.toLocaleString('en')
const total = (c: Counts) => number(c.created + c.changed + c.unchanged)
const summary = (c: Counts) =>
  `${number(c.created)} created, ${number(c.changed)} changed, ${number(c.unchanged)} unchanged, ${number(c.refused)} refused`

const clear = process.stderr.isTTY ? '\r\x1b[K' : ''
/** In a terminal one line that is written over, at most ten times a second; elsewhere a line every second. */
function progress(text: (counts: Counts) => string) {
  let shown = 0
  return (counts: Counts) => {
    if (Date.now() - shown < (process.stderr.isTTY ? 100 : 1000)) return
    shown = Date.now()
    process.stderr.write(process.stderr.isTTY ? `${clear}${text(counts)}` : `${text(counts)}\n`)
  }
}

/** Writes the pictures of products and users to standard output; the database is not asked. */
export async function exportObjects(env: NodeJS.ProcessEnv) {
  using objects = openObjects(config('products', env))
  process.stderr.write(`${await writeArchive(objects, process.stdout)} objects\n`)
}

/** Puts the pictures of such a tar from standard input; one that is there in the same size stays. */
export async function importObjects(env: NodeJS.ProcessEnv) {
  using objects = openObjects(config('products', env))
  process.stderr.write(`${await readArchive(objects, process.stdin)} objects\n`)
}
