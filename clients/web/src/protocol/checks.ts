import { ProtocolError } from './messages'

/** Gives a value back as what it should be, or refuses it, naming where it stands. */
export type Check<T> = (value: unknown, where: string) => T

/** Refuse with a `ProtocolError` where a condition does not hold. */
export function ensure(condition: boolean, why: string): asserts condition {
  if (!condition) throw new ProtocolError(why)
}

export const text: Check<string> = (value, where) => {
  ensure(typeof value === 'string', `${where}: not a text`)
  return value
}

export const flag: Check<boolean> = (value, where) => {
  ensure(typeof value === 'boolean', `${where}: neither true nor false`)
  return value
}

export const finite: Check<number> = (value, where) => {
  ensure(typeof value === 'number' && Number.isFinite(value), `${where}: not a number`)
  return value
}

/** A whole number within limits. */
export function whole(low: number, high: number): Check<number> {
  return (value, where) => {
    ensure(Number.isInteger(value) && Number(value) >= low && Number(value) <= high, `${where}: not a whole number of ${low} to ${high}`)
    return Number(value)
  }
}

/** A text of a certain form. */
export function like(form: RegExp, name: string): Check<string> {
  return (value, where) => {
    ensure(typeof value === 'string' && form.test(value), `${where}: not ${name}`)
    return value
  }
}

/** One of some texts. */
export function oneOf<T extends string>(values: readonly T[]): Check<T> {
  return (value, where) => {
    const found = values.find((one) => one === value)
    ensure(found !== undefined, `${where}: not one of ${values.join(', ')}`)
    return found
  }
}

/** A list, of a certain length where that is given. */
export function list<T>(item: Check<T>, length?: number): Check<readonly T[]> {
  return (value, where) => {
    ensure(Array.isArray(value) && (length === undefined || value.length === length), `${where}: not a list of ${length ?? 'items'}`)
    return value.map((one, k) => item(one, `${where}.${k}`))
  }
}

/** What may be left out, and is then `otherwise`. */
export function optional<T, U extends T | null>(check: Check<T>, otherwise: U): Check<T | U> {
  return (value, where) => (value === undefined || value === null ? otherwise : check(value, where))
}

/** Anything that JSON calls an object. */
export const dictionary: Check<Readonly<Record<string, unknown>>> = (value, where) => {
  ensure(typeof value === 'object' && value !== null && !Array.isArray(value), `${where}: not an object`)
  return value as Readonly<Record<string, unknown>>
}

/** An object of these fields and no others. */
export function fields<T extends object>(checks: { readonly [K in keyof T]: Check<T[K]> }): Check<T> {
  return (value, where) => {
    const given = dictionary(value, where)
    const unknown = Object.keys(given).find((key) => !Object.hasOwn(checks, key))
    ensure(unknown === undefined, `${where}.${unknown}: not a field of this protocol`)
    const out: Partial<T> = {}
    for (const key of Object.keys(checks) as (keyof T & string)[]) out[key] = checks[key](given[key], `${where}.${key}`)
    return out as T
  }
}
