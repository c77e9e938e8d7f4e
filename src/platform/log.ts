import { pino } from 'pino'

export type { Logger } from 'pino'

/** JSON lines on standard output. Values under the names below never appear, whatever is logged. */
export const openLog = (level: string, bindings: Record<string, unknown>) =>
  pino(
    {
      level,
      base: bindings,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: {
        paths: ['password', 'token', 'code', 'refreshToken', 'accessToken', 'authorization', 'cookie'].flatMap((k) => [
          k,
          `*.${k}`,
          `*.*.${k}`,
        ]),
        censor: '[secret]',
      },
      serializers: { err: pino.stdSerializers.err },
    },
    // Lines are gathered up to 4 KiB and written off the hot path; `closeLog` writes what is left.
    pino.destination({ fd: 1, sync: false, minLength: 4096 }),
  )
