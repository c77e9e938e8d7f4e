/** The entity tag of a product's version: `"v3"`. */
export const etag = (version: number) => `"v${version}"`

/**
 * The versions that If-Match or If-None-Match names, or `*`. Tags of any other form name none. `W/"v3"` counts as `"v3"`,
 * since proxies weaken a tag when they compress, and it is the version that is compared.
 */
export function versionsIn(header: string): number[] | '*' {
  if (header.trim() === '*') return '*'
  return [...header.matchAll(/(?:W\/)?"v(\d{1,9})"/g)].map((tag) => Number(tag[1]))
}
