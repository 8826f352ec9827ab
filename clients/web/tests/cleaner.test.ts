import { beforeEach, describe, expect, test, vi } from 'vitest'
import type { Features } from '../src/codec'

const files = new Map<string, Uint8Array>()
const clean = vi.fn(async (features: Features) => ({ ...features, rows: new Float32Array([9]), degradation: new Float32Array(4) }))
const release = vi.fn(async () => undefined)
const keptFile = vi.fn(async (path: string) => {
  files.set(path, new Uint8Array(1))
  return new Uint8Array(1)
})

vi.mock('../src/receiver/graph', () => ({ Graph: { of: async () => ({ clean, release }) }, free: () => undefined }))
vi.mock('../src/receiver/kept', () => ({
  isKept: async (path: string) => files.has(path),
  drop: async (path: string) => void files.delete(path),
  keptFile: (path: string) => keptFile(path),
}))

const features = (degradation: readonly number[]): Features => ({
  rows: new Float32Array([1, 2]),
  mergeMap: Int32Array.from([0, 1]),
  degradation: Float32Array.from(degradation),
  height: 1,
  width: 2,
  channels: 1,
})
const FINE = features([0.05, 0.1, 0, 0, 0, 0.08, 0, 0])
const COARSE = features([0, 0.2, 1, 0, 0, 0.4, 0, 0])
const PATH = '/decode/1/2/denoiser.onnx'

describe('what cleans coarse features', () => {
  let cleaner: typeof import('../src/receiver/cleaner')

  beforeEach(async () => {
    files.clear()
    vi.clearAllMocks()
    vi.resetModules()
    vi.stubGlobal('navigator', {})
    cleaner = await import('../src/receiver/cleaner')
  })

  test('degradation is the root mean square of each token’s largest', () => {
    expect(cleaner.degradationOf(COARSE)).toBeCloseTo(Math.sqrt((1 + 0.4 ** 2) / 2))
  })

  test('a file is fetched once and for coarse features only, and cleans from then on', async () => {
    await cleaner.fetchCleaner(FINE, PATH)
    await cleaner.fetchCleaner(COARSE, null)
    expect(keptFile).not.toHaveBeenCalled()
    expect(await cleaner.cleaned(COARSE, PATH)).toBe(COARSE)
    await Promise.all([cleaner.fetchCleaner(COARSE, PATH), cleaner.fetchCleaner(COARSE, PATH)])
    await cleaner.fetchCleaner(COARSE, PATH)
    expect(keptFile).toHaveBeenCalledTimes(1)
    expect((await cleaner.cleaned(COARSE, PATH)).rows).toEqual(new Float32Array([9]))
    expect(await cleaner.cleaned(FINE, PATH)).toBe(FINE)
    expect(release).toHaveBeenCalledTimes(1)
  })

  test('where data is saved nothing is fetched', async () => {
    vi.stubGlobal('navigator', { connection: { saveData: true } })
    await cleaner.fetchCleaner(COARSE, PATH)
    expect(keptFile).not.toHaveBeenCalled()
  })

  test('a browser that keeps no files has it in memory', async () => {
    keptFile.mockImplementationOnce(async () => new Uint8Array(1))
    await cleaner.fetchCleaner(COARSE, PATH)
    expect(files.size).toBe(0)
    expect((await cleaner.cleaned(COARSE, PATH)).rows).toEqual(new Float32Array([9]))
    await cleaner.fetchCleaner(COARSE, PATH)
    expect(keptFile).toHaveBeenCalledTimes(1)
  })

  test('one that does not work is dropped, and the features stay', async () => {
    files.set(PATH, new Uint8Array(1))
    clean.mockRejectedValueOnce(new Error('out of memory'))
    expect(await cleaner.cleaned(COARSE, PATH)).toBe(COARSE)
    expect(release).toHaveBeenCalledTimes(1)
    expect(files.size).toBe(0)
    keptFile.mockClear()
    await cleaner.fetchCleaner(COARSE, PATH)
    expect(keptFile).not.toHaveBeenCalled()
  })

  test('a failed fetch is tried again at the next picture', async () => {
    keptFile.mockRejectedValueOnce(new Error('offline'))
    await expect(cleaner.fetchCleaner(COARSE, PATH)).rejects.toThrow('offline')
    await cleaner.fetchCleaner(COARSE, PATH)
    expect(files.has(PATH)).toBe(true)
  })
})
