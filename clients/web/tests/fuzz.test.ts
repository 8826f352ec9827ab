import { describe, expect, test } from 'vitest'
import { CodecError, decode, type Features, readCodecFile } from '../src/codec'
import { viewOf } from '../src/codec/bytes'
import { CODEC_BYTES, CODECS, fromHex, VECTORS } from './helpers'
import { type Bodies, bodiesOf, checked, pack, seal } from './pack'
import { bytes, type Random, randomOf } from './random'

/** The bundled backbone's nets take seconds for the largest grids, which a receiver of one grid refuses. */
const SEEDS = VECTORS.decoded.filter(({ prior }) => prior !== 'scenes')
/** The byte of a packed payload that says whether symbols follow. */
const FLAGS = 5
/** Far more than any takes, as the machine may have other work: 128 x 128 tokens take about 100 ms. */
const LIMIT_MS = 1500
const EACH = 600

type Mutation = (payload: Uint8Array, random: Random) => Uint8Array

/** From bytes that no checksum fits to ones where all do. */
const MUTATIONS: Readonly<Record<string, Mutation>> = {
  'bytes changed': (payload, random) => changed(payload, random),
  'bytes changed under the last checksum': (payload, random) => checked(changed(payload.subarray(0, -4), random)),
  cut: (payload, random) => payload.subarray(0, random(payload.length)),
  'header changed': (payload, random) => resealed(payload, (bodies) => ({ ...bodies, header: changed(bodies.header, random) })),
  'sizes changed': (payload, random) => resealed(payload, (bodies) => resized(bodies, random)),
  'map changed': (payload, random) => resealed(payload, (bodies) => ({ ...bodies, map: bodies.map && garbled(bodies.map, random) })),
  'part changed': (payload, random) =>
    resealed(payload, (bodies) => {
      const number = random(bodies.features.length)
      return { ...bodies, features: bodies.features.map((body, i) => (body && i === number ? garbled(body, random) : body)) }
    }),
  'parts lost or added': (payload, random) =>
    resealed(payload, (bodies) => ({
      ...bodies,
      features: bodies.features.flatMap((body) => [[body], [null], [body, body], []][random(4)]),
    })),
}

describe('any bytes are decoded or refused', () => {
  test.each(Object.entries(MUTATIONS))(
    'payloads: %s',
    (_, mutate) => {
      const random = randomOf(EACH)
      const originals = SEEDS.map(({ prior, payload }) => ({ prior, payload: fromHex(payload) }))
      let refused = 0
      for (let i = 0; i < EACH; i++) {
        const { prior, payload } = originals[random(originals.length)]
        const start = performance.now()
        const data = mutate(payload, random)
        const features = attempt(() => decode(data, CODECS[prior], VECTORS.backbone))
        expect(performance.now() - start).toBeLessThan(LIMIT_MS)
        if (features) expectSound(features, data[FLAGS] === 0)
        else refused++
      }
      expect(refused).toBeGreaterThan(0)
    },
    120_000,
  )

  test('codec files', () => {
    const random = randomOf(3)
    for (let i = 0; i < 500; i++) {
      const index = 8 + viewOf(CODEC_BYTES.small).getUint32(0, true)
      const data = CODEC_BYTES.small.slice()
      data.set(changed(data.subarray(0, index), random))
      attempt(() => readCodecFile(data))
    }
  })
})

function attempt<Result>(run: () => Result): Result | null {
  try {
    return run()
  } catch (error) {
    if (error instanceof CodecError && !error.message.includes('\n')) return null
    throw error
  }
}

/** An analog payload's numbers may be as large as its symbols. */
function expectSound({ rows, mergeMap, degradation, height, width, channels }: Features, digital: boolean): void {
  const tokens = height * width
  const count = rows.length / channels
  const sound =
    mergeMap.length === tokens &&
    degradation.length === 4 * tokens &&
    Number.isInteger(count) &&
    mergeMap.every((row) => row >= 0 && row < count) &&
    (!digital || rows.every((value) => Math.abs(value) <= 128))
  expect(sound).toBe(true)
}

function resealed(payload: Uint8Array, change: (bodies: Bodies) => Bodies): Uint8Array {
  return pack(seal(change(bodiesOf(payload))))
}

function changed(data: Uint8Array, random: Random): Uint8Array {
  const out = data.slice()
  for (let n = 1 + random(3); n > 0; n--) out[random(out.length)] = random(256)
  return out
}

/** Changed, or random words. */
function garbled(body: Uint8Array, random: Random): Uint8Array {
  return random(3) > 0 ? changed(body, random) : bytes(4 * random(30) + (random(20) ? 0 : 2), random)
}

/** Another grid, without a map; by stage, where the number of parts does not depend on the grid. */
function resized({ header, features, symbols }: Bodies, random: Random): Bodies {
  const out = header.slice()
  const [height, width] = [2 + 2 * random(65), 2 + 2 * random(65)]
  const view = viewOf(out)
  view.setUint16(8, height, true)
  view.setUint16(10, width, true)
  view.setUint16(14, height * width, true)
  out[4] = 1
  const few = features.length > 0 ? features : [null]
  return { header: out, map: null, features: Array.from({ length: 5 }, (_, i) => few[i % few.length]), symbols }
}
