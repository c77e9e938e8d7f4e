import { enableCompileCache } from 'node:module'
import { setFlagsFromString } from 'node:v8'
import { ConfigError, config, roleNames } from './platform/config.ts'
import { openLog } from './platform/log.ts'
import { roles } from './roles.ts'

enableCompileCache()
// Without this, V8 lets a heap of 25 MB grow to a multiple before it collects, since the machine has more memory: four loaded
// roles held 890 MB, and hold 390 MB with this and the environment of the image (shared pages counted once).
setFlagsFromString('--heap-growing-percent=20')
// Without this, the helper thread frees the memory of Maglev (V8's middle compiler) only after the whole queue of functions
// is compiled: 20 MB a role by the time its first load is compiled, which malloc then keeps.
setFlagsFromString('--no-maglev-destroy-on-background')
// Without this, V8 may decide in the first seconds of a load, when requests wait long, that the objects of some places in
// the code live long, and allocate them among the old ones from then on. There each holds its whole request until the next
// full collection: one start in six was a third slower for good.
setFlagsFromString('--no-allocation-site-pretenuring')

const [command] = process.argv.slice(2)
try {
  if (command === 'migrate') {
    const { migrate } = await import('./platform/migrate.ts')
    await migrate(config('migrate'))
  } else if (command) {
    throw new ConfigError('the command line', [`${command} is unknown; say migrate, or set ROLE and say nothing`])
  } else {
    const role = roleNames.find((name) => name === process.env.ROLE)
    if (!role)
      throw new ConfigError('this process', [
        `ROLE ${process.env.ROLE ? `is ${process.env.ROLE}, and ` : ''}must be one of ${roleNames.join(', ')}`,
      ])
    const { run } = await import('./platform/process.ts')
    const { LOG_LEVEL, SHUTDOWN_GRACE } = config(role)
    const door = await roles[role]()
    const table = async () => (await import('./table.ts')).table()
    await run({ log: openLog(LOG_LEVEL, { role }), grace: SHUTDOWN_GRACE, table }, door.start)
  }
} catch (error) {
  if (!(error instanceof ConfigError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 78
}
