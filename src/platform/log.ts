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
        // `code` only where payloads stand: the code of an error is no secret.
        paths: [
          ...['password', 'token', 'refreshToken', 'accessToken', 'authorization', 'cookie'].flatMap((key) => [
            key,
            `*.${key}`,
            `*.*.${key}`,
          ]),
          'body.code',
          'data.code',
          'payload.code',
        ],
        censor: '[secret]',
      },
      serializers: { err: pino.stdSerializers.err },
    },
    // Lines are gathered up to 4 KiB or 200 ms, and written off the hot path.
    pino.destination({ fd: 1, sync: false, minLength: 4096, periodicFlush: 200 }),
  )
