// One file at a time: each has the machine's Docker to itself.
export default {
  files: ['test/e2e/**/*.test.ts', 'test/packaging/*.test.ts'],
  extensions: { ts: 'module' },
  workerThreads: false,
  timeout: '10m',
  concurrency: 1,
  verbose: true,
}
