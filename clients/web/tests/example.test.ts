import { expect, test } from 'vitest'
import { decode, unpack } from '../src/codec'
import { logisticCounts, levelEdges } from '../src/codec/levels'
import { pyramidOf } from '../src/codec/pyramid'
import { baseStep, log2 } from '../src/codec/quantiser'
import { RangeDecoder } from '../src/codec/range'
import { fromHex, valuesOf } from './helpers'

/** The worked example of section 10, as the page prints it. */
const EXAMPLE = `
  4d454750 03 00 0200 23000000 00000000 07000000 07000000
  4d45 03 0c 00 01 00 00
  0200 0200 0100 0400 00000000 eeffc000
  00 00 00 00 00 25 19  b080fab5
  00172e00 105933
  21b384d6 c56ef4
  b4b523b2`
const BACKBONE = 0x00c0ffee

test('the worked example gives the values of its text', () => {
  const payload = fromHex(EXAMPLE.replace(/\s/g, ''))
  const features = decode(payload, null, BACKBONE)
  expect([...valuesOf(features)]).toEqual([0, 0, 256, 16128])
  expect([...features.mergeMap]).toEqual([0, 1, 2, 3])
  const quantiser = Math.fround(1 / Math.sqrt(12))
  expect([...features.degradation]).toEqual(Array.from({ length: 4 }, () => [0, quantiser, 0, 0]).flat())
})

test('the worked example goes through the symbols of its text', () => {
  const { features } = unpack(fromHex(EXAMPLE.replace(/\s/g, '')))
  const edges = levelEdges(logisticCounts())
  expect([edges[24], edges[25]]).toEqual([11799, 16765416])
  expect([edges[21 * 50 + 28], edges[21 * 50 + 29]]).toEqual([13641716, 14575602])
  const base = new RangeDecoder(features[0].subarray(0, -3), 'part 0')
  expect(base.symbol(edges, 0, 49)).toBe(24)
  const rest = new RangeDecoder(features[1].subarray(0, -3), 'part 1')
  const wide = () => rest.symbol(edges, 21 * 50, 49)
  expect([wide(), rest.uniform(4), wide(), wide(), rest.uniform(1), rest.uniform(1)]).toEqual([28, 7, 20, 21, 1, 0])
})

test('the stages and neighbours of the worked example', () => {
  const { parts, partOf } = pyramidOf({ height: 2, width: 2, order: 'band' })
  const sent = parts.map((stages) => stages.filter(({ tokens }) => tokens.length > 0))
  expect(sent.map((stages) => stages.map(({ kind, tokens }) => [kind, ...tokens]))).toEqual([
    [[0, 0]],
    [
      [5, 3],
      [6, 1, 2],
    ],
  ])
  expect([...sent[1][0].neighbours]).toEqual([0, 0, 0, 0])
  expect([...sent[1][1].neighbours]).toEqual([0, 0, 3, 3, 3, 3, 0, 0])
  expect([...partOf]).toEqual([0, 1, 1, 1])
})

test('steps and their logarithms', () => {
  expect([1, 12, 20, 32].map(baseStep)).toEqual([1722, 256, 64, 8])
  expect([1, 256, 384, 8].map(log2)).toEqual([-2048, 0, 128, -1280])
})
