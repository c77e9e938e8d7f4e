import type { Sizes } from '../platform/resize-worker.ts'
import type { SeedProduct } from './seed.ts'

/** What a product of a category looks like, on 100 × 100, in its colour `c` and a darker one `d`. */
const motifs: Record<string, string> = {
  Coffee: `<path d="M28 42h38v22a16 16 0 0 1-16 16h-6a16 16 0 0 1-16-16z" fill="c"/>
    <path d="M66 47h5a9 9 0 0 1 0 18h-6" fill="none" stroke="c" stroke-width="5"/><ellipse cx="47" cy="42" rx="19" ry="4" fill="d"/>
    <path d="M41 34q-4-5 0-9t0-9M53 34q-4-5 0-9t0-9" fill="none" stroke="d" stroke-width="2.5" stroke-linecap="round"/>`,
  Kitchen: `<path d="M18 46h46v10a16 16 0 0 1-16 16H34a16 16 0 0 1-16-16z" fill="c"/><rect x="16" y="42" width="50" height="6" rx="3" fill="d"/>
    <rect x="64" y="44" width="26" height="6" rx="3" fill="d"/>`,
  Tableware: `<ellipse cx="50" cy="74" rx="36" ry="7" fill="d"/><path d="M22 42h56a28 28 0 0 1-56 0z" fill="c"/>
    <ellipse cx="50" cy="42" rx="28" ry="6" fill="d"/><rect x="40" y="66" width="20" height="6" rx="2" fill="c"/>`,
  Lighting: `<path d="M36 20h28l12 28H24z" fill="c"/><path d="M24 48h52v3H24z" fill="d"/><rect x="48" y="51" width="4" height="26" fill="d"/>
    <rect x="34" y="77" width="32" height="5" rx="2.5" fill="d"/>`,
  Furniture: `<rect x="32" y="16" width="36" height="34" rx="6" fill="c"/><rect x="28" y="50" width="44" height="9" rx="4" fill="d"/>
    <path d="M32 59l-4 26M68 59l4 26M42 59v22M58 59v22" stroke="d" stroke-width="4" stroke-linecap="round"/>`,
  Textiles: `<rect x="22" y="26" width="56" height="16" rx="7" fill="c"/><rect x="20" y="44" width="60" height="16" rx="7" fill="d"/>
    <rect x="18" y="62" width="64" height="16" rx="7" fill="c"/><path d="M26 34h48M22 70h56" stroke="d" stroke-width="2" stroke-dasharray="3 3"/>`,
  Outdoor: `<path d="M50 22L88 78H12z" fill="c"/><path d="M50 40L66 78H34z" fill="d"/><path d="M50 22l-5-8M50 22l5-8" stroke="d" stroke-width="3"/>`,
  Stationery: `<rect x="24" y="18" width="44" height="62" rx="4" fill="c"/><rect x="24" y="18" width="9" height="62" rx="4" fill="d"/>
    <path d="M78 24v44l-4 10-4-10V24z" fill="d"/><path d="M42 34h18M42 42h18" stroke="d" stroke-width="2.5"/>`,
  Audio: `<path d="M22 60V50a28 28 0 0 1 56 0v10" fill="none" stroke="d" stroke-width="6"/><rect x="16" y="52" width="16" height="28" rx="8" fill="c"/>
    <rect x="68" y="52" width="16" height="28" rx="8" fill="c"/>`,
  Garden: `<path d="M30 56h40l-6 28H36z" fill="c"/><rect x="27" y="50" width="46" height="8" rx="3" fill="d"/>
    <path d="M50 50V28M50 38q-16 0-18-16 16 0 18 16zM50 32q14-2 15-16-14 2-15 16z" fill="#5d7f4e" stroke="#4a6840" stroke-width="2"/>`,
}
const other = `<rect x="24" y="34" width="52" height="46" rx="4" fill="c"/><path d="M24 38l26-16 26 16-26 14z" fill="d"/>`

const colours: Record<string, string> = {
  Black: '#33343a',
  White: '#f6f3ec',
  Silver: '#b9bec4',
  Steel: '#9aa3ab',
  Grey: '#8b8d92',
  Slate: '#5f6b77',
  Smoke: '#7b7a80',
  Smoked: '#6d5540',
  Charcoal: '#45464c',
  Graphite: '#54575e',
  Sand: '#d9c3a0',
  Cream: '#efe3c8',
  Natural: '#dcbf94',
  Oak: '#c79a5f',
  Walnut: '#7c5334',
  Copper: '#c07a4d',
  Brass: '#c9a24b',
  Gold: '#d2ac4f',
  Amber: '#dd9c3b',
  Ochre: '#c9922e',
  Mustard: '#d3a32c',
  Orange: '#dd7a35',
  Rust: '#b3552f',
  Terracotta: '#c2694a',
  Clay: '#b98468',
  Coral: '#e0796a',
  Red: '#b53f3c',
  Burgundy: '#7a2b3c',
  Heather: '#9a86a8',
  Navy: '#2f4368',
  Midnight: '#27304f',
  Blue: '#3f6ea8',
  Ocean: '#3b7d94',
  Green: '#4f8a5b',
  Forest: '#33604a',
  Moss: '#77854a',
  Olive: '#82813f',
  Sage: '#9db08f',
  Mint: '#9fcdb5',
  Juniper: '#4b6f78',
  Sepia: '#7a5a40',
}
/** For a variant that names no colour: one of these, by its product. */
const plain = ['#a9745b', '#6f8796', '#8a8f5a', '#b08a4f', '#7d6f8e']

/** The drawing of an example product, as SVG of shapes alone: the same on every machine, whatever fonts it has. */
export function drawingOf({ sku, name, category }: Pick<SeedProduct, 'sku' | 'name' | 'category'>): string {
  const named = name
    .split(', ')
    .at(-1)
    ?.split(' ')
    .map((word) => colours[word])
    .find(Boolean)
  const letters = [...(sku.split('-')[0] ?? '')].reduce((sum, letter) => sum + letter.charCodeAt(0), 0)
  const colour = named ?? (plain[letters % plain.length] as string)
  const motif = (motifs[category] ?? other)
    .replaceAll('"c"', `"${colour}"`)
    .replaceAll('"d"', `"${mix(colour, '#000000', 0.28)}"`)
  const ground = mix(colour, '#e0d8c9', 0.82)
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="512" height="512">
<rect width="100" height="100" fill="${ground}"/><ellipse cx="50" cy="86" rx="34" ry="3" fill="${mix(ground, '#000000', 0.1)}"/>${motif}</svg>`
}

/** The two WebP files of a drawing. Effort 0 takes a quarter of the time of the 4 that uploads get, and half as much room again. */
export async function paint(drawing: string, { small }: Sizes): Promise<{ large: Buffer; small: Buffer }> {
  const { default: sharp } = await import('sharp')
  const { data, info } = await sharp(Buffer.from(drawing)).removeAlpha().raw().toBuffer({ resolveWithObject: true })
  const raw = { raw: { width: info.width, height: info.height, channels: info.channels } }
  const encode = { quality: 80, effort: 0 }
  return {
    large: await sharp(data, raw).webp(encode).toBuffer(),
    small: await sharp(data, raw).resize(small).webp(encode).toBuffer(),
  }
}

/** Two colours, with the second's share from 0 to 1. */
function mix(one: string, two: string, share: number) {
  const parts = (colour: string) => [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16))
  const [a, b] = [parts(one), parts(two)]
  return `#${a
    .map((part, i) =>
      Math.round(part * (1 - share) + (b[i] as number) * share)
        .toString(16)
        .padStart(2, '0'),
    )
    .join('')}`
}
