import { readFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { CodecError, decode, type Features } from '../src/codec'
import { CODECS, type CodecName, crcOf, fromHex, VECTORS } from './helpers'

/** A line that `make_vectors.py` wrote: rows and degradation are CRC-32s, or an analog payload's numbers in hex. */
interface Line {
  readonly prior: CodecName
  readonly payload: string
  readonly expected: { readonly map: number; readonly rows: number | string; readonly degradation: number | string } | null
}

const path = process.env['MEGEN_VECTORS']

describe.skipIf(!path)('payloads of make_vectors.py, in the file that MEGEN_VECTORS names', () => {
  test('are decoded to the same features, or refused', () => {
    const lines = readFileSync(path ?? '', 'utf8')
      .trimEnd()
      .split('\n')
    const counts = { digital: 0, analog: 0, refused: 0 }
    for (const line of lines) {
      const { prior, payload, expected } = JSON.parse(line) as Line
      const features = attempt(prior, payload)
      expect(features === null, line).toBe(expected === null)
      counts[expected === null ? 'refused' : typeof expected.rows === 'string' ? 'analog' : 'digital']++
      if (features === null || expected === null) continue
      expect(crcOf(features.mergeMap), line).toBe(expected.map)
      expectArray(features.rows, expected.rows, line)
      expectArray(features.degradation, expected.degradation, line)
    }
    console.log(`${lines.length} payloads:`, counts)
  }, 600_000)
})

function attempt(prior: CodecName, payload: string): Features | null {
  try {
    return decode(fromHex(payload), CODECS[prior], VECTORS.backbone)
  } catch (error) {
    if (error instanceof CodecError) return null
    throw error
  }
}

function expectArray(actual: Float32Array, expected: number | string, line: string): void {
  if (typeof expected === 'number') return expect(crcOf(actual), line).toBe(expected)
  const numbers = new Float32Array(fromHex(expected).buffer)
  expect(actual.length, line).toBe(numbers.length)
  const largest = numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 0)
  numbers.forEach((number, i) => {
    // a token is a sum over all coefficients, in either order
    const near = Math.abs(actual[i] - number) <= 1e-6 * Math.abs(number) + 1e-11 * largest || Object.is(actual[i], number)
    if (!near) expect(actual[i], line).toBe(number)
  })
}
