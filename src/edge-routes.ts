import { pathPattern, type Table, type TableRow } from './platform/routes.ts'

/**
 * The edge's `routes.conf`: for nginx's maps, which role serves a method and path and whether it must ask /authz first,
 * which methods a path has, and which requests count against a limit per address.
 */
export function edgeRoutes(table: Table): string {
  const rows = table.filter((row) => !row.internal)
  const paths = [...new Set(rows.map((row) => row.path))]
  const methodsOf = (path: string) =>
    rows
      .filter((row) => row.path === path)
      .flatMap(methods)
      .join(', ')
  return [
    '# Made from the route table by `make routes`; a test refuses a stale one.',
    // Fixed keys of a map match in any case, and all of them are small: a capital is set before what is looked for.
    map('$uri', '$capital', '""', [['"~[A-Z]"', capital]]),
    map(
      '"$capital$request_method $uri"',
      '$route',
      'none',
      rows.flatMap((row) => keys(row).map((key) => [key, target(row)])),
    ),
    map(
      '"$capital$uri"',
      '$allow',
      '""',
      paths.map((path) => [pathKey('', path), `"${methodsOf(path)}"`]),
    ),
    map(
      '"$capital$request_method $uri"',
      '$limit',
      '""',
      rows.flatMap((row) => (row.limit ? keys(row).map((key) => [key, row.limit as string]) : [])),
    ),
  ].join('\n')
}

const methods = (row: TableRow) => (row.method === 'GET' ? ['GET', 'HEAD'] : [row.method])
const keys = (row: TableRow) => methods(row).map((method) => pathKey(`${method} `, row.path))

const capital = '^'

/** A fixed path is found by hash; only one with parameters, where capitals may be, costs a regular expression. */
const pathKey = (before: string, path: string) =>
  path.includes('{')
    ? `"~^\\${capital}?${before}${pathPattern(path).source.slice(1).replaceAll('\\/', '/')}"`
    : `"${before}${path}"`

const target = ({ role, access, upload }: TableRow) => {
  if (upload) return `${role}/upload`
  if (access === 'public' || access === 'PRODUCT_READ') return `${role}/${access}`
  return `${role}/user`
}

const map = (from: string, to: string, otherwise: string, rows: string[][]) =>
  [`map ${from} ${to} {`, `  default ${otherwise};`, ...rows.map(([key, value]) => `  ${key} ${value};`), '}', ''].join(
    '\n',
  )
