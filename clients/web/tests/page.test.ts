import { afterEach, describe, expect, test, vi } from 'vitest'
import { energyOf, spansOf } from '../src/page/breakdown'
import { fileName } from '../src/page/saving'
import { Status } from '../src/page/status'
import { KINDS, phrasesIn, surprise, toggled } from '../src/page/vocabulary'
import { againText, joules, seconds, sentence, size, stageShare, stageText, times, waitText } from '../src/page/wording'
import { Draft } from '../src/store/draft'
import { Memory, tokenIn } from '../src/store/memory'
import { bytesOf } from './helpers'
import { randomOf } from './random'
import { ID } from './said'

describe('chips', () => {
  test('a phrase is added, taken away, and takes the place of those of its kind', () => {
    expect(toggled('', 'a castle')).toBe('a castle')
    expect(toggled('a castle, my dog', 'the sea')).toBe('a castle, my dog, the sea')
    expect(toggled('a castle, the sea', 'a cabin')).toBe('a cabin, the sea')
    expect(toggled('A Castle , the sea', 'a castle')).toBe('the sea')
    expect(toggled('a lighthouse on the left at sunset, rain', 'a castle')).toBe('a castle on the left at sunset, rain')
    expect(toggled('a lighthouse on the left at sunset', 'on the left')).toBe('a lighthouse at sunset')
    expect(toggled('rain, a castle, the sea', 'a lake')).toBe('rain, a castle, a lake')
  })

  test('phrases are found wherever they stand, whole, and not within longer ones', () => {
    expect(phrasesIn('A lighthouse AT SUNSET with pine trees')).toEqual(new Set(['a lighthouse', 'at sunset', 'pine trees']))
    expect(phrasesIn('a cabin, no clouds, raining, a lakeside')).toEqual(new Set(['a cabin', 'no clouds']))
    expect(toggled('no clouds', 'clouds')).toBe('clouds')
  })

  test('night and its lights go together', () => {
    expect(toggled('a castle, at noon', 'stars')).toBe('a castle, stars')
    expect(toggled('stars, a full moon, at night', 'at dawn')).toBe('at dawn')
    expect(toggled('stars', 'at night')).toBe('stars, at night')
  })

  test('phrases and surprises are of the words that the backbone knows', () => {
    const source = new TextDecoder().decode(bytesOf('src/megen/scenes/captions.py'))
    for (const phrase of KINDS.flatMap(({ phrases }) => phrases)) expect(source).toContain(`"${phrase}"`)
    const random = randomOf(5)
    for (let k = 0; k < 300; k++) {
      const prompt = surprise(() => random(1e6) / 1e6)
      const night = prompt.includes('at night')
      expect(prompt.includes('moon')).toBe(night)
      if (prompt.includes('stars')) expect(night && !/rain|snowing|fog/.test(prompt)).toBe(true)
      if (prompt.includes('sailboat')) expect(prompt).toMatch(/a lake|the sea/)
    }
  })
})

describe('wording', () => {
  test('figures have their units', () => {
    expect([size(36), size(4195), size(9960), size(14_210), size(999_600), size(7_624_774)]).toEqual(['36 bytes', '4.2 kB', '10 kB', '14 kB', '1.0 MB', '7.6 MB'])
    expect([seconds(0.0634), seconds(9.994), seconds(12.34)]).toEqual(['0.06 s', '9.99 s', '12.3 s'])
    expect([joules(4.04), joules(40.49), times(3.44), times(210.3)]).toEqual(['4.0 J', '40 J', '3.4', '210'])
    expect([waitText(10), waitText(1001)]).toEqual(['1 s', '2 s'])
    expect([sentence('the sun does not shine at night'), sentence('Really?'), sentence(' ')]).toEqual(['The sun does not shine at night.', 'Really?', ''])
  })

  test('where a request stands is said, and never goes back', () => {
    const stages = [
      { at: 'sent' },
      { at: 'queued', position: 2 },
      { at: 'drawing', done: 1, of: 4 },
      { at: 'drawing', done: 4, of: 4 },
      { at: 'sending', parts: 3, of: 7, bytes: 4155 },
      { at: 'decoding' },
    ] as const
    expect(stages.map(stageText)).toEqual([
      'Asking the server.',
      'In line, 2 ahead of you.',
      'Drawing, step 1 of 4.',
      'Drawing, step 4 of 4.',
      '4.2 kB received, part 3 of 7.',
      'Developing the picture on this device.',
    ])
    const shares = stages.map(stageShare)
    expect(shares).toEqual([...shares].sort((a, b) => a - b))
  })

  test('why a request waits is said, and when it is asked again', () => {
    expect(againText('too many requests: try again in 51 s', 50_900)).toBe('Too many requests. Trying again in 51 s.')
    expect(againText('the server is busy: 9 requests wait, try again in 3 s', 3000)).toBe('The server is busy: 9 requests wait. Trying again in 3 s.')
  })

  test('a file is named by its prompt', () => {
    expect(fileName('A lighthouse, at sunset; ../x', 3)).toBe('a-lighthouse-at-sunset-x-3.png')
    expect(fileName('¿?', 3)).toBe('3.png')
  })
})

describe('the breakdown', () => {
  const report = { latency_s: { queue: 0.5, text: 0.1, denoise: 1, merge: 0.1, code: 0.2, rows: 3 }, energy_j: { es: 40 }, modelled: ['energy_j.es'] }

  test('says where the seconds passed', () => {
    const spans = spansOf({ report, latencyS: 4, decodeS: 1.5 })
    expect(spans.server).toBeCloseTo(1.4, 9)
    expect(spans.air).toBeCloseTo(0.6, 9)
    expect([spans.queue, spans.device]).toEqual([0.5, 1.5])
    expect(spansOf({ report: { latency_s: 'odd' }, latencyS: 1, decodeS: 2 })).toEqual({ queue: 0, server: 0, air: 0, device: 2 })
  })

  test('says whether energy is modelled', () => {
    expect(energyOf(report)).toEqual({ joules: 40, modelled: true })
    expect(energyOf({ energy_j: { es: 1 } })).toEqual({ joules: 1, modelled: false })
    expect(energyOf({})).toBe(null)
  })
})

const storage = (kept: Record<string, string>) =>
  ({ getItem: (key: string) => kept[key] ?? null, setItem: (key: string, value: string) => (kept[key] = value) }) as unknown as Storage

describe('what a tab remembers', () => {
  const sent = { id: ID, prompt: 'a castle', seed: 7, wishes: { steps: 4, deadlineS: null, energyJ: null }, beganMs: Date.now() - 1000 }

  test('the form, and the request on its way while the server keeps it', () => {
    const kept: Record<string, string> = {}
    const draft = new Draft(storage(kept))
    expect([draft.form, draft.sent]).toEqual([{}, null])
    draft.form = { prompt: 'a castle', seed: '7' }
    draft.sent = sent
    const later = new Draft(storage(kept))
    expect([later.form, later.sent]).toEqual([{ prompt: 'a castle', seed: '7' }, sent])
    later.sent = { ...sent, beganMs: Date.now() - 600_001 }
    expect(later.sent).toBe(null)
    later.sent = null
    expect(later.sent).toBe(null)
  })

  test('a browser that keeps nothing, or something else, is no error', () => {
    const draft = new Draft(null)
    draft.form = { prompt: 'a castle' }
    draft.sent = sent
    expect([draft.form, draft.sent]).toEqual([{}, null])
    for (const odd of ['{', '1', '{"id": 1}']) {
      const odds = new Draft(storage({ 'megen.form': odd === '{"id": 1}' ? '[]' : odd, 'megen.sent': odd }))
      expect([odds.form, odds.sent]).toEqual([{}, null])
    }
  })
})

describe('what is remembered', () => {
  test('the token and the median of the last times', () => {
    const kept: Record<string, string> = {}
    const memory = new Memory(storage(kept))
    expect([memory.token, memory.decodeS]).toEqual([null, null])
    memory.token = 'secret'
    for (const time of [9, 1, 3, 2, 5, 4]) memory.decoded(time)
    expect(memory.decodeS).toBe(3)
    const files = { fingerprint: 1, shape: [1, 2, 3], receiver: '/r', codec: '/c', denoiser: null, tiles: null }
    memory.files = files
    const later = new Memory(storage(kept))
    expect([later.token, later.decodeS, later.files]).toEqual(['secret', 3, files])
    later.files = { ...files, receiver: '/r2' }
    expect(later.decodeS).toBe(3)
    later.files = { ...files, fingerprint: 2 } // another backbone's decoder
    expect(later.decodeS).toBe(null)
  })

  test('a browser that keeps nothing, or something else, is no error', () => {
    const memory = new Memory(null)
    memory.decoded(2)
    expect(memory.decodeS).toBe(2)
    expect(new Memory(storage({ 'megen.decode_s': '{' })).decodeS).toBe(null)
    expect(new Memory(storage({ 'megen.decode_s': '["a", -1, 2]' })).decodeS).toBe(2)
    for (const odd of ['{', '1', '{"receiver": 1}']) expect(new Memory(storage({ 'megen.files': odd })).files).toBe(null)
  })

  test('a token comes in the fragment', () => {
    expect([tokenIn('#token=a%2Bb'), tokenIn('#token='), tokenIn('#other=1'), tokenIn('')]).toEqual(['a+b', null, null, null])
  })
})

describe('the line under the picture', () => {
  afterEach(() => vi.unstubAllGlobals())

  test('loading shows where nothing else is said, and goes when it is over', () => {
    const elements = new Map<string, object>()
    const element = () => ({ textContent: '', hidden: true, dataset: {}, setAttribute: () => undefined, style: { setProperty: () => undefined, removeProperty: () => undefined } })
    vi.stubGlobal('document', { getElementById: (id: string) => elements.get(id) ?? elements.set(id, element()).get(id) })
    const status = new Status()
    const line = () => (elements.get('status') as { textContent: string }).textContent
    status.loading(1, 2)
    expect(line()).toBe('Getting this device ready: 50 %.')
    status.loading(3, 2)
    expect(line()).toBe('Getting this device ready: 100 %.')
    status.loaded()
    expect(line()).toBe('')
    status.stage({ at: 'sent' })
    status.rest('Cancelled.')
    status.loading(2, 2)
    status.loaded()
    expect(line()).toBe('Cancelled.')
    status.stage({ at: 'decoding' })
    status.loading(1, 2)
    expect(line()).toBe('Getting this device ready: 50 %.')
    status.loaded()
    expect(line()).toBe('Getting this device ready: 50 %.') // the stage goes on, and its next line follows
  })
})

test("the text grows with the browser's font size", () => {
  const style = new TextDecoder().decode(bytesOf('clients/web/src/page/style.css'))
  expect(style.match(/font(-size)?:[^;]*\dpx/g)).toBe(null)
})
