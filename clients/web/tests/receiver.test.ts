import { describe, expect, test } from 'vitest'
import { CodecError, type CodecFile, decode, type Features, readCodecFile } from '../src/codec'
import { joined, viewOf } from '../src/codec/bytes'
import { bytesOf, CODEC_BYTES, CODECS, fromHex, VECTORS } from './helpers'
import { bodiesOf, pack, seal } from './pack'

const [ANALOG, BANDS, OWN] = ['analog', 'several bands', 'own scales'].map((name) => fromHex(vectorOf(name)))

function vectorOf(name: string): string {
  return VECTORS.decoded.find((vector) => vector.name === name)?.payload ?? ''
}

function decoded(payload: Uint8Array, codec: CodecFile | null = CODECS.small): Features {
  return decode(payload, codec, VECTORS.backbone)
}

describe('what a receiver is for', () => {
  test('another backbone, grid or number of channels is refused', () => {
    expect(() => decode(BANDS, CODECS.small, 1)).toThrow(
      new CodecError('the payload is of backbone 00c0ffee, this receiver decodes 00000001'),
    )
    const grid = 'the payload has a grid of 20 x 12, this receiver decodes 32 x 32'
    expect(() => decode(BANDS, CODECS.small, VECTORS.backbone, [32, 32])).toThrow(new CodecError(grid))
    expect(decode(BANDS, CODECS.small, VECTORS.backbone, [20, 12])).toEqual(decoded(BANDS))
    expect(() => decoded(BANDS, CODECS.scenes)).toThrow(new CodecError('the payload has 3 channels, this receiver decodes 32'))
  })

  test('nets that the receiver does not have are asked for', () => {
    expect(() => decoded(BANDS, null)).toThrow("the payload needs nets, which this receiver's codec file does not have")
    expect(decoded(OWN, null).channels).toBe(5)
  })

  test('the bundled backbone decodes a payload of its own', () => {
    const features = decode(bytesOf('tests/golden/scenes.payload'), CODECS.scenes, VECTORS.bundled, [32, 32])
    expect([features.mergeMap.length, features.rows.length % 32, features.degradation.length]).toEqual([1024, 0, 4096])
    expect(features.rows.every((value) => Math.abs(value) <= 128)).toBe(true)
  })
})

describe('analog payloads', () => {
  test('features are those of the formula', () => {
    const { rows, mergeMap, degradation, channels } = decoded(ANALOG)
    const { header, symbols } = bodiesOf(ANALOG)
    if (symbols === null) throw new Error('no symbols')
    const amplitude = viewOf(header).getFloat32(16, true)
    const shown = Array.from({ length: rows.length / channels }, (_, row) => mergeMap.filter((r) => r === row).length)
    const mean = shown.reduce((sum, count) => sum + Math.sqrt(count), 0) / shown.length
    rows.forEach((feature, i) => {
      const scale = amplitude / Math.sqrt(Math.sqrt(shown[Math.floor(i / channels)]) / mean)
      const noise = symbols.variance[i >> 1] * scale * scale
      expect(feature).toBeCloseTo((Math.sqrt(2) * symbols.iq[i] * scale) / (1 + noise), 6)
    })
    shown.forEach((count, row) => {
      const states = [...mergeMap.keys()]
        .filter((token) => mergeMap[token] === row)
        .map((token) => degradation.subarray(4 * token, 4 * token + 4))
      expect(states.reduce((sum, [, , merged]) => sum + merged, 0)).toBe(count - 1)
      expect(states.every(([noise, quantiser, , lost]) => noise > 0 && noise === states[0][0] && quantiser === 0 && lost === 0)).toBe(true)
    })
  })

  test.each([
    ['too few', (numbers: Float64Array) => numbers.subarray(1), 'an analog payload needs 18 symbols, got 17'],
    [
      'not a number',
      (numbers: Float64Array) => numbers.map((number, i) => (i === 3 ? NaN : number)),
      'symbols or variances that are no finite numbers',
    ],
    ['infinite', (numbers: Float64Array) => numbers.fill(Infinity, 0, 1), 'symbols or variances that are no finite numbers'],
    ['below 0', (numbers: Float64Array) => numbers.fill(-1, 0, 1), 'symbols or variances that are no finite numbers'],
  ])('variances that are %s are refused', (_, change, why) => {
    const bodies = bodiesOf(ANALOG)
    const symbols = bodies.symbols
    if (symbols === null) throw new Error('no symbols')
    const variance = change(symbols.variance)
    const iq = symbols.iq.subarray(0, 2 * variance.length)
    expect(() => decoded(pack(seal({ ...bodies, symbols: { iq, variance } })))).toThrow(why)
    expect(() => decoded(pack(seal({ ...bodies, symbols: null })))).toThrow('symbols, got 0')
  })

  test('symbols and variances as large as numbers can be give finite features or are refused', () => {
    const bodies = bodiesOf(ANALOG)
    if (bodies.symbols === null) throw new Error('no symbols')
    const { iq, variance } = bodies.symbols
    const sent = (part: number, power: number): Uint8Array =>
      pack(seal({ ...bodies, symbols: { iq: iq.map(() => part), variance: variance.map(() => power) } }))
    for (const power of [0, 1, 1e308]) {
      const { rows, degradation } = decoded(sent(1e18, power))
      expect(rows.every(Number.isFinite) && degradation.every(Number.isFinite)).toBe(true)
      expect(() => decoded(sent(-2e18, power))).toThrow('symbols hold numbers beyond 1e18')
    }
  })
})

describe('codec files', () => {
  const file = CODEC_BYTES.small
  const indexLength = viewOf(file).getUint32(0, true)
  const index = JSON.parse(new TextDecoder().decode(file.subarray(8, 8 + indexLength))) as Record<string, { data_offsets: number[] }>

  /** The small codec file with another index, or other numbers in a tensor. */
  function changed(edit: (text: string) => string, tensor = 'step', numbers = new Uint8Array(0)): Uint8Array {
    const json = new TextEncoder().encode(edit(JSON.stringify(index)))
    const data = file.slice(8 + indexLength)
    data.set(numbers, index[tensor].data_offsets[0])
    return joined(new Uint8Array(new BigUint64Array([BigInt(json.length)]).buffer), json, data)
  }
  const same = (text: string) => text

  test('a change of a number changes the digest', () => {
    expect(readCodecFile(changed(same)).digest).toBe(VECTORS.digests.small)
    expect(readCodecFile(changed(same, 'step', Uint8Array.of(5, 0, 0, 0))).digest).not.toBe(VECTORS.digests.small)
  })

  test.each([
    ['nothing', new Uint8Array(0), 'not a safetensors file'],
    ['cut', file.subarray(0, 100), 'the safetensors file ends within its index'],
    ['cut in its numbers', file.subarray(0, -8), 'does not fit its place'],
    ['no JSON', changed((text) => text.replace('{', '[')), 'is not JSON'],
    ['an older format', changed((text) => text.replace('codec-3', 'codec-1')), 'not a codec file of format megen-codec-3'],
    ['no steps', changed((text) => text.replace('"step"', '"stop"')), 'the codec file has no tensor step'],
    ['a net that is missing', changed((text) => text.replace('"6.1.w2"', '"7.1.w2"')), 'the codec file has no tensor 6.1.w2'],
    ['another type', changed((text) => text.replaceAll('I16', 'F16')), 'tensor 0.0.w1 of the codec file must be of type I16'],
    ['another shape', changed((text) => text.replace('[15,5]', '[5,15]')), 'tensor 0.0.w1 of the codec file is 5 x 15, expected 15 x n'],
    ['a step of 0', changed(same, 'step', new Uint8Array(4)), 'a step of the codec file lies outside 1 to 1024'],
    ['a count of 0', changed(same, 'levels', new Uint8Array(4)), 'row 0 of the table of levels is no distribution'],
    [
      'sums beyond 32 bits',
      changed(same, '3.1.b2', Uint8Array.of(0, 0, 0, 128)),
      'a sum in layer 2 of net 3.1 of the codec file could reach',
    ],
  ])('%s is refused', (_, data, why) => {
    const attempt = () => readCodecFile(data)
    expect(attempt).toThrow(CodecError)
    expect(attempt).toThrow(why)
  })
})
