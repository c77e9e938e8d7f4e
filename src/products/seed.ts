import { createHash } from 'node:crypto'

/** A line of products: `KEY | name | description | price in cents | variant +cents, …`. */
const shelves: Record<string, string> = {
  Coffee: `
    CBN | Espresso Beans Notte | Dark roast of Brazilian and Indian beans: cocoa, toasted hazelnut and a thick crema | 1190 | 250 g, 500 g +950, 1 kg +2400
    CBF | Filter Beans Yirgacheffe | Washed Ethiopian arabica, roasted light for filter and pour-over: jasmine, lemon, honey | 1390 | 250 g, 500 g +1150, 1 kg +2900
    CDC | Decaf Beans Siesta | Decaffeinated with mountain water, for an espresso after dinner | 1290 | 250 g, 500 g +1050
    CGR | Hand Grinder Pico | Conical steel burrs, forty clicks, fits into a hand and into an AeroPress | 8900 | Black, Silver, Olive +500
    CGE | Coffee Grinder Stella | Electric grinder with 54 mm flat burrs, timer and almost no retention | 32900 | White, Black, Copper +2000
    CMP | Moka Pot Classica | Stovetop pot of polished aluminium with a walnut handle | 3490 | 3 cups, 6 cups +800, 9 cups +1600
    CFP | French Press Bruna | Double-walled steel, keeps a litre hot for an hour | 5490 | 0.35 l, 1 l +1500
    CDR | Pour-Over Dripper Vela | Glazed stoneware cone, with forty paper filters to begin | 2490 | White, Blue, Terracotta`,
  Kitchen: `
    KCK | Chef's Knife Arno | 20 cm blade of German steel, forged in one piece, with an oak handle | 7990 | 16 cm, 20 cm +1000, 24 cm +2500
    KPK | Paring Knife Arno | Short and nimble, for fruit and everything in the hand | 3290 | Oak, Walnut +300
    KPN | Cast-Iron Pan Forge | Seasoned with linseed oil, smooth inside, good for a hundred years | 5990 | 20 cm, 26 cm +1500, 30 cm +2800
    KCP | Copper Saucepan Lyon | Two millimetres of copper lined with steel: the heat is where you want it | 14900 | 14 cm, 18 cm +3500
    KDO | Dutch Oven Hearth | Enamelled cast iron for bread, stews and Sundays | 18900 | Red 4 l, Green 4 l, Red 6 l +4500, Blue 6 l +4500
    KCB | Cutting Board Fold | End-grain walnut with a juice groove and rubber feet | 6490 | Small, Large +2500
    KKT | Electric Kettle Gauge | Swan neck, holds any temperature from 40 to 100 °C | 8490 | Black, White, Steel +500
    KSC | Kitchen Scale Gram | Weighs to a tenth of a gram, with a timer for coffee | 3990 | Black, White`,
  Tableware: `
    TMG | Mug Dune | Thrown stoneware with a speckled glaze, 300 ml, safe in the dishwasher | 1890 | Sand, Slate, Moss, Rust
    TEC | Espresso Cup Dune | Thick-walled stoneware, 80 ml, with its saucer | 1690 | Sand, Slate, Moss
    TBL | Bowl Dune | For soup, ramen or cereal: 16 cm across | 2290 | Sand, Slate, Moss, Rust
    TPL | Dinner Plate Dune | 27 cm with a raised rim, stacks well | 2690 | Sand, Slate, Moss
    TGL | Water Glass Lido | Mouth-blown recycled glass, no two alike | 1290 | Clear, Smoke, Green
    TCR | Carafe Lido | A litre of water or wine; the stopper is a cup | 3990 | Clear, Smoke
    TCT | Cutlery Set Linea | Brushed steel, for four people, 16 pieces | 7990 | Steel, Black +1500, Gold +2000
    TTR | Serving Tray Birch | Bent plywood with a non-slip face | 3490 | Round, Oval +400`,
  Lighting: `
    LDL | Desk Lamp Heron | Three joints, warm or cool light, dims to a candle | 12900 | Black, White, Brass +2500
    LFL | Floor Lamp Heron | The big sister: reads over a sofa's back | 22900 | Black, White, Brass +3500
    LPD | Pendant Lamp Bell | Spun aluminium, enamelled inside, with three metres of textile cable | 15900 | White, Mustard, Forest, Black
    LTB | Table Lamp Pebble | Opal glass that glows like a moon, with a dimmer in the cord | 8900 | Small, Large +4000
    LLN | Lantern Harbour | Rechargeable for garden and balcony, twelve hours a charge | 6900 | Black, White, Sage
    LBL | LED Bulb Filament | E27, 2700 K, as bright as 60 watts were | 990 | Clear, Opal
    LST | String Lights Festa | Ten metres, twenty lamps, happy in the rain | 4990 | Warm White, Amber`,
  Furniture: `
    FCH | Dining Chair Nils | Oiled oak and woven paper cord, light enough for one hand | 24900 | Natural, Smoked +1500, Black +1500
    FST | Bar Stool Nils | The chair's tall brother, 65 cm, with a brass footrest | 22900 | Natural, Black +1500
    FTB | Dining Table Fjord | Solid oak with rounded edges | 89900 | 160 cm, 200 cm +20000, 240 cm +42000
    FCT | Coffee Table Loop | A walnut top on a single bent steel tube | 34900 | Round, Oval +6000
    FSH | Wall Shelf Stack | Powder-coated steel, adds up sideways and upwards | 7990 | White, Sand, Forest
    FAR | Armchair Cove | High back, feather and foam, covers that come off | 79900 | Grey Wool, Rust Velvet +8000, Green Velvet +8000
    FBN | Hallway Bench Fjord | Sit down, tie a shoe, keep six pairs below | 29900 | Oak, Walnut +6000
    FDK | Standing Desk Lift | Bamboo top, two motors, four heights it remembers | 64900 | 120 cm, 140 cm +5000, 160 cm +9000`,
  Textiles: `
    XBL | Wool Blanket Skye | Lambswool woven in a Scottish mill, 140 × 200 cm | 12900 | Heather, Charcoal, Ochre
    XLN | Linen Bedding Calm | Stone-washed French flax, cool in summer and warm in winter | 18900 | White 135 × 200, Sage 135 × 200, White 200 × 200 +7000, Sage 200 × 200 +7000
    XCS | Cushion Cover Plain | Heavy cotton canvas with a hidden zip, 50 × 50 cm | 2490 | Natural, Navy, Terracotta, Moss
    XTW | Bath Towel Terra | 600 g of organic cotton a square metre | 3490 | White, Clay, Ocean
    XRG | Rug Tide | Hand-woven wool over cotton, flat enough for a door | 27900 | 120 × 180, 160 × 230 +18000
    XAP | Apron Work | Waxed canvas, crossed straps, pockets where hands look for them | 5900 | Olive, Black
    XTT | Tea Towels Check | Three of half linen that dry and do not fluff | 2290 | Blue, Red, Green`,
  Outdoor: `
    OBP | Backpack Ridge | Recycled ripstop, a hip belt that carries, rain cover in the base | 13900 | 22 l, 35 l +4000
    OTN | Tent Lark | Two people, 1.4 kg, stands in four minutes | 34900 | Green, Sand
    OSB | Sleeping Bag Lark | Down that dries, comfortable to 2 °C | 24900 | Regular, Long +2000
    OBT | Insulated Bottle Creek | Keeps hot twelve hours and cold a day, and does not sweat | 3290 | 0.5 l Black, 0.5 l Blue, 1 l Black +900, 1 l Blue +900
    OHL | Headlamp Beacon | 400 lumens, red light for the map, charges by USB-C | 5490 | Black, Orange
    OST | Camping Stove Ember | Folds into its own pot, boils a litre in three minutes | 7490 | Single, With Pot +2500
    OHM | Hammock Siesta | Parachute nylon for two, straps that leave the bark alone | 5990 | Blue, Green, Red
    OPK | Pocket Knife Grove | Olive wood, a locking blade, a corkscrew that works | 4890 | Olive, Juniper`,
  Stationery: `
    SNB | Notebook Field | Thread-bound, lies flat, 90 g paper that takes ink | 1490 | Plain, Ruled, Dotted, Squared
    SFP | Fountain Pen Quill | Turned brass with a steel nib, fills from a bottle | 6900 | Fine, Medium, Broad
    SIK | Ink Bottle Quill | 50 ml, flows well and dries soon | 1190 | Midnight, Sepia, Forest, Burgundy
    SPL | Pencil Set Cedar | Twelve from 4H to 6B in a tin | 1690 | Graphite, Colour +800
    SDP | Desk Pad Felt | Wool felt that quiets a keyboard | 3990 | Grey, Green
    SCL | Wall Calendar Months | Screen-printed, one sheet a month, good paper after | 2190 | 2026, 2027
    SOR | Desk Organiser Stack | Beech trays with room for cables behind | 4590 | Small, Large +1500`,
  Audio: `
    AHP | Headphones Quiet | Over the ear, noise cancelling, 38 hours a charge, parts you can replace | 24900 | Black, Sand, Navy
    AEB | Earbuds Drop | Small and light, with a case that charges by cable or without | 12900 | Black, White
    ASP | Portable Speaker Brook | Waterproof, 20 hours, two of them play in stereo | 9900 | Blue, Coral, Graphite
    ABS | Bookshelf Speakers Alder | A pair in real alder veneer, a silk dome and a paper cone | 39900 | Natural, Black
    ATT | Turntable Orbit | Belt drive, a carbon arm and a built-in phono stage | 34900 | Walnut, Black
    ARD | Kitchen Radio Dial | FM, DAB+ and internet, with knobs that click | 15900 | Cream, Mint, Charcoal
    ACB | Headphone Cable Braid | 1.5 m, jack to jack, does not tangle | 1990 | Black, Grey`,
  Garden: `
    GPT | Terracotta Pot Siena | Frost-proof, thrown by hand, with a saucer | 1990 | 18 cm, 25 cm +1500, 35 cm +4000
    GWC | Watering Can Brook | Galvanised steel with a brass rose that rains softly | 4490 | 5 l, 9 l +1000
    GSC | Secateurs Thorn | Bypass blades of Japanese steel; every part is to be had | 5990 | Right-Handed, Left-Handed
    GGL | Garden Gloves Thorn | Goatskin palm, breathing back | 2490 | S, M, L, XL
    GTR | Hand Trowel Dig | One piece of stainless steel with an ash handle | 2290 | Narrow, Wide
    GSD | Seed Box Balcony | Twelve kinds of herbs and flowers that like pots, with a calendar | 1990 | Herbs, Flowers, Salads
    GBH | Bird House Wren | Larch that greys by itself, opens for cleaning | 3490 | 28 mm, 32 mm
    GFB | Fire Bowl Ring | Corten steel that rusts beautifully, 60 cm | 18900 | Bowl, Bowl with Grill +6000`,
}

export interface SeedProduct {
  sku: string
  name: string
  description: string
  category: string
  /** Cents. */
  price: number
  currency: 'EUR'
  stock: number
}

/** The example catalogue, the same every time: more than 200 products in ten categories, prices in cents. */
export const catalogue = (): SeedProduct[] =>
  Object.entries(shelves).flatMap(([category, lines]) =>
    lines
      .trim()
      .split('\n')
      .flatMap((line) => productsOf(category, line)),
  )

function productsOf(category: string, line: string): SeedProduct[] {
  const [key, name, description, price, variants = ''] = line.split(' | ').map((part) => part.trim())
  return variants.split(', ').map((variant, i) => {
    const [label, more = '0'] = variant.split(' +')
    const sku = `${key}-${String(i + 1).padStart(2, '0')}`
    return {
      sku,
      name: `${name}, ${label}`,
      description: `${description}.`,
      category,
      price: Number(price) + Number(more),
      currency: 'EUR',
      stock: stockOf(sku),
    }
  })
}

/** One in 25 is sold out, one in 8 nearly; the others have 6 to 120. */
function stockOf(sku: string) {
  const [a = 0, b = 0] = createHash('sha256').update(sku).digest()
  if (a % 25 === 0) return 0
  return a % 8 === 1 ? 1 + (b % 4) : 6 + (b % 115)
}
