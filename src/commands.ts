import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ConfigError } from './platform/config.ts'
import { permissions, type TableRow, userRoles } from './platform/routes.ts'

interface Command {
  help: string
  run(...args: (string | undefined)[]): Promise<void>
}

/** What an operator does by command. Each reads the settings of the role whose work it does. */
const commands: Record<string, Command> = {
  admin: {
    help: 'admin EMAIL      make the account an admin',
    run: async (email) => (await import('./auth/commands.ts')).makeAdmin(email, process.env),
  },
  import: {
    help: 'import FILE      load products from CSV or JSON lines; -.csv is standard input',
    run: async (file) => (await import('./products/commands.ts')).runImport(file, process.env),
  },
  export: {
    help: 'export FILE      write products as CSV or JSON lines; -.csv is standard output',
    run: async (file) => (await import('./products/commands.ts')).runExport(file, process.env),
  },
  seed: {
    help: 'seed             load the example catalogue',
    run: async () => (await import('./products/commands.ts')).runSeed(process.env),
  },
  job: {
    help: 'job NAME         run one scheduled job now',
    run: async (name) => (await import('./notifications/commands.ts')).runJob(name, process.env),
  },
  dlq: {
    help: 'dlq              list dead letters; show NUMBER, replay NUMBER|all, drop NUMBER|all',
    run: async (verb, which) =>
      (await import('./platform/dead-letters.ts')).runDeadLetters(process.env, verb || undefined, which),
  },
  'objects-export': {
    help: 'objects-export   write all pictures to standard output, as a tar',
    run: async () => (await import('./products/commands.ts')).exportObjects(process.env),
  },
  'objects-import': {
    help: 'objects-import   put the pictures of such a tar, from standard input',
    run: async () => (await import('./products/commands.ts')).importObjects(process.env),
  },
  policy: { help: 'policy           print who may call what', run: printPolicy },
  routes: {
    help: 'routes           write the files that are made from the route table and the settings',
    run: writeRoutes,
  },
}

/** Prints each route with who may call it. */
async function printPolicy() {
  const { table } = await import('./table.ts')
  const rows = (await table()).filter((row) => !row.internal)
  const width = Math.max(...rows.map((row) => row.path.length))
  const holders = (row: TableRow) => {
    if (row.access === 'public') return 'anyone'
    if (row.access === 'user') return 'signed in'
    if (row.access === 'PRODUCT_READ') return 'anyone (signed in where PRODUCT_READ=user)'
    const roles = userRoles.filter((role) => (permissions[role] as readonly string[]).includes(row.access))
    return `${row.access} (${roles.join(', ')})`
  }
  for (const row of rows)
    process.stdout.write(`${row.method.padEnd(7)} ${row.path.padEnd(width)}  ${row.role.padEnd(13)}  ${holders(row)}\n`)
}

/** The generated files and what they should hold now; the test of staleness asks the same question. */
export async function generated(): Promise<Record<string, string>> {
  const [{ table }, { edgeRoutes }, { openapi }, { settingsPage }] = await Promise.all([
    import('./table.ts'),
    import('./edge-routes.ts'),
    import('./openapi.ts'),
    import('./settings-page.ts'),
  ])
  const rows = await table()
  const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../package.json'), 'utf8'))
  return {
    'docs/settings.md': settingsPage(),
    'src/edge/routes.conf': edgeRoutes(rows),
    'src/edge/openapi.json': `${JSON.stringify(openapi(rows, version), null, 2)}\n`,
  }
}

async function writeRoutes() {
  for (const [file, text] of Object.entries(await generated()))
    writeFileSync(join(import.meta.dirname, '..', file), text)
}

if (import.meta.main) {
  const [name = '', ...args] = process.argv.slice(2)
  process.stdout.on('error', ({ code, syscall }: NodeJS.ErrnoException) => {
    // A pipeline ends standard output with the fault of its source too, which the command reports itself.
    if (syscall !== 'write') return
    // A reader that has seen enough, such as `head`, is no fault, except of what must be whole.
    if (code === 'EPIPE' && !name.endsWith('export')) process.exit(0)
    process.stderr.write(`${name}: standard output cannot be written (${code})\n`)
    process.exit(1)
  })
  try {
    const command = commands[name]
    if (!command) {
      const menu = Object.values(commands).map((c) => c.help)
      throw new ConfigError('the command line', [`${name || 'nothing'} is not a command; there are:`, ...menu])
    }
    await command.run(...args)
  } catch (error) {
    const { SECRETS_DIR } = process.env
    // Loaded only now, since most commands need no database.
    const { outOfReach } = await import('./platform/db.ts')
    const { name: kind, message } = error as Error
    if (kind === 'NatsError') {
      process.stderr.write(
        `${name}: NATS refuses or does not answer (${message}); migrate makes the streams, and the log of NATS says more\n`,
      )
      process.exitCode = 1
    } else if (outOfReach(error)) {
      process.stderr.write(`${name}: the database is out of reach (${message}); does the shop run?\n`)
      process.exitCode = 1
    } else if (error instanceof ConfigError) {
      process.stderr.write(`${error.message}\n`)
      if (SECRETS_DIR && !existsSync(SECRETS_DIR))
        process.stderr.write(
          `There is no ${SECRETS_DIR}: make demo first, or say its PORT= or where the SECRETS= are\n`,
        )
      process.exitCode = 78
    } else throw error
  }
}
