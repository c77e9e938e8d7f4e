/**
 * Digits of the minor unit as ISO 4217 (list one, of 2024) has them, of the currencies where Intl (CLDR 48) has fewer: it
 * tells how amounts are written in shops, without coins that nobody uses. SLL has left the list, and Intl still knows it.
 */
const two = 'AFN ALL COP HUF IDR IRR KPW LAK LBP MGA MMK PKR SLL SOS SYP YER'.split(' ')
const digitsOf = new Map([...two.map((code) => [code, 2] as const), ['IQD', 3]])

/**
 * Writes minor units of an ISO 4217 currency as a locale does: 0 digits for JPY, 3 for KWD, 2 for HUF. Throws RangeError
 * where the currency, or the locale, is none.
 */
export function moneyIn(locale: string, currency: string): (minor: number) => string {
  const digits = digitsOf.get(currency)
  const format = new Intl.NumberFormat(locale, {
    style: 'currency',
    currency,
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  })
  const unit = 10 ** (format.resolvedOptions().maximumFractionDigits ?? 2)
  return (minor) => format.format(minor / unit)
}
