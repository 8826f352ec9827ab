import { beforeEach, describe, expect, test } from 'vitest'
import { type Action, type News, Session } from '../src/protocol/session'
import { ACCEPTED, frame, ID, WELCOME } from './said'

const OTHER = 'f'.repeat(32)
const BYTES = Uint8Array.of(1, 2, 3)
const coded = { type: 'coded', id: ID, parts: 3, bytes: 9 }
const done = { type: 'done', id: ID, report: {} }

let session: Session
let ids: string[]

beforeEach(() => {
  ids = [ID, OTHER]
  session = new Session(() => ({ client: 'test', token: 'secret', decodeS: 1.5 }), () => ids.shift() ?? '', () => 0.5)
})

const sent = (actions: readonly Action[]) => actions.flatMap((a) => (a.do === 'send' ? [JSON.parse(a.text) as Record<string, unknown>] : []))
const told = (actions: readonly Action[]) => actions.flatMap((a) => (a.do === 'tell' ? [a.news as News & { kind?: string; type?: string }] : []))
const timers = (actions: readonly Action[]) => actions.flatMap((a) => (a.do === 'timer' ? [a.ms] : []))
const hear = (message: object, ms = 0) => session.received(JSON.stringify(message), ms)

function connect(): Action[] {
  return [...session.renew(), ...session.opened(), ...hear(WELCOME)]
}

function ask(): Action[] {
  return session.ask({ prompt: 'a castle', seed: 7, steps: 4 }, 0)
}

describe('a request', () => {
  test('goes from hello to done, and every frame is acknowledged', () => {
    expect(sent(connect())).toEqual([{ type: 'hello', protocols: [1, 2, 3], client: 'test', token: 'secret', decode_s: 1.5, previews: ['webp'] }])
    expect(sent(ask())).toEqual([{ type: 'generate', id: ID, prompt: 'a castle', seed: 7, steps: 4 }])
    expect(told(hear(ACCEPTED, 100))[0].type).toBe('accepted')
    const preview = session.received(frame(0, 1, BYTES, 1), 130)
    expect(told(preview)[0].kind).toBe('preview')
    expect(sent(preview)).toEqual([{ type: 'ack', id: ID, sequence: 0, bytes: 39, ms: 30 }])
    hear(coded, 150)
    const parts = [0, 1, 2].flatMap((k) => session.received(frame(k + 1, k, BYTES), 200 + 10 * k))
    expect(told(parts).map(({ kind }) => kind)).toEqual(['part', 'part', 'part'])
    expect(sent(parts).map(({ ms }) => ms)).toEqual([50, 10, 10])
    const end = hear(done, 230)
    expect(told(end)).toMatchObject([{ type: 'done', reconnects: 0 }])
    expect(timers(end)).toContain(null)
    expect(sent(session.shown(ID, 1, 2))).toEqual([{ type: 'shown', id: ID, decode_s: 1, latency_s: 2 }])
  })

  test('waits for a connection', () => {
    expect(ask()).toEqual([])
    expect(sent(connect()).map(({ type }) => type)).toEqual(['hello', 'generate'])
  })

  test('goes on after a cut with what has arrived', () => {
    connect()
    ask()
    hear(ACCEPTED)
    hear(coded)
    session.received(frame(0, 0, BYTES), 0)
    session.received(frame(1, 2, BYTES), 0)
    const lost = session.lost('', 0)
    expect(told(lost)).toMatchObject([{ kind: 'link', state: 'waiting', ms: 200, refused: false }])
    expect(session.due(200)[0]).toEqual({ do: 'connect' })
    expect(sent([...session.opened(), ...hear(WELCOME)])[1]).toEqual({ type: 'resume', id: ID, have: [0, 2] })
    hear(ACCEPTED)
    hear(coded)
    session.received(frame(0, 1, BYTES), 0)
    expect(told(hear(done))).toMatchObject([{ type: 'done', reconnects: 1 }])
  })

  test('that is made anew after a cut was not resumed', () => {
    connect()
    ask()
    hear(ACCEPTED)
    session.lost('', 0)
    session.due(200)
    expect(sent([...session.opened(), ...hear(WELCOME)])[1]).toMatchObject({ type: 'resume' })
    hear({ type: 'error', code: 'unknown_request', message: 'no such request', id: ID })
    hear(ACCEPTED)
    hear(coded)
    for (const part of [0, 1, 2]) session.received(frame(part, part, BYTES), 0)
    expect(told(hear(done))).toMatchObject([{ type: 'done', reconnects: 0 }])
  })

  test('that waited for its turn was not resumed', () => {
    connect()
    ask()
    hear({ type: 'error', code: 'busy', message: 'the queue is full', id: ID, retryable: true, retry_after_s: 8 })
    session.due(8000)
    hear(ACCEPTED)
    hear(coded)
    for (const part of [0, 1, 2]) session.received(frame(part, part, BYTES), 0)
    expect(told(hear(done))).toMatchObject([{ type: 'done', reconnects: 0 }])
  })

  test('goes on after the page was loaded again', () => {
    expect(session.request).toBe(null)
    expect(session.resume(OTHER, { prompt: 'a castle', seed: 7 }, -5000)).toEqual([])
    expect(session.request).toBe(OTHER)
    expect(sent(connect())[1]).toEqual({ type: 'resume', id: OTHER, have: [] })
    const anew = hear({ type: 'error', code: 'unknown_request', message: 'no such request', id: OTHER })
    expect(sent(anew)).toEqual([{ type: 'generate', id: OTHER, prompt: 'a castle', seed: 7 }])
  })

  test('is asked anew where the server has lost it, and after a failure under another id', () => {
    connect()
    ask()
    hear(ACCEPTED)
    const anew = hear({ type: 'error', code: 'unknown_request', message: 'no such request', id: ID })
    expect(told(anew)).toMatchObject([{ kind: 'anew' }])
    expect(sent(anew)).toMatchObject([{ type: 'generate', id: ID }])
    const failed = hear({ type: 'error', code: 'failed', message: 'an engine was lost', id: ID, retryable: true, retry_after_s: 3 })
    expect(timers(failed)).toContain(3000)
    expect(sent(session.due(3000))).toMatchObject([{ type: 'generate', id: OTHER }])
  })

  test('waits as long as a busy server says, and not for ever', () => {
    connect()
    ask()
    const busy = { type: 'error', code: 'busy', message: 'the queue is full', id: ID, retryable: true, retry_after_s: 8 }
    const waits = hear(busy)
    expect(timers(waits).at(-1)).toBe(8000)
    expect(told(waits)).toMatchObject([{ kind: 'anew' }, { kind: 'again', why: 'the queue is full', ms: 8000 }])
    expect(sent(session.due(8000))).toMatchObject([{ type: 'generate', id: ID }])
    const late = hear(busy, 599_000)
    expect(told(late).at(-1)).toMatchObject({ kind: 'failed' })
    expect(sent(session.cancel())).toEqual([])
  })

  test('fails with what the server says of it', () => {
    connect()
    ask()
    expect(told(hear({ type: 'error', code: 'bad_request', message: 'too long', id: ID }))).toEqual([{ kind: 'failed', why: 'too long' }])
  })

  test('is cancelled, if need be with the next connection, and what still comes of it is only acknowledged', () => {
    connect()
    ask()
    hear(ACCEPTED)
    expect(sent(session.cancel())).toEqual([{ type: 'cancel', id: ID }])
    const late = session.received(frame(0, 1, BYTES, 1), 0)
    expect([told(late), sent(late).length]).toEqual([[], 1])
    ask()
    session.lost('', 0)
    expect(session.cancel()).toEqual([])
    session.due(500)
    expect(sent([...session.opened(), ...hear(WELCOME)]).slice(1)).toEqual([{ type: 'cancel', id: OTHER }])
  })
})

describe('a connection', () => {
  test('is tried again after longer and longer', () => {
    session.renew()
    const waits = Array.from({ length: 10 }, () => {
      const [ms] = timers(session.lost('', 0))
      session.due(0)
      return ms
    })
    expect(waits).toEqual([200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000])
    expect(session.hurry()).toEqual([])
    session.lost('', 0)
    expect(session.hurry()[0]).toEqual({ do: 'connect' })
  })

  test('that is silent with a request on it is given up', () => {
    expect(timers(connect()).at(-1)).toBe(null)
    expect(timers(ask()).at(-1)).toBe(30_000)
    expect(session.due(30_000)[0]).toEqual({ do: 'close' })
  })

  test('is not tried again without the token that it needs, but with another', () => {
    session.renew()
    session.opened()
    const refused = hear({ type: 'error', code: 'unauthorised', message: 'this server asks for a token' })
    expect(told(refused)).toMatchObject([{ kind: 'unauthorised' }])
    expect(session.lost('', 0)).toEqual([{ do: 'timer', ms: null }])
    expect(session.hurry()).toEqual([])
    expect(ask()[0]).toEqual({ do: 'connect' })
    hear({ type: 'error', code: 'unauthorised', message: 'this server asks for a token' })
    expect(session.renew()).toContainEqual({ do: 'connect' })
  })

  test('without a token says that one is needed', () => {
    session = new Session(() => ({ client: 'test', token: null, decodeS: null }), () => ID)
    session.renew()
    session.opened()
    const refused = hear({ type: 'error', code: 'unauthorised', message: 'this server asks for a token, and this is not one of its own' })
    expect(told(refused)).toEqual([{ kind: 'unauthorised', why: 'this server asks for a token' }])
  })

  test('is made anew only where no request is on it', () => {
    connect()
    ask()
    expect(session.renew()).toEqual([])
    session.cancel()
    expect(session.renew().slice(0, 2)).toEqual([{ do: 'close' }, { do: 'connect' }])
  })

  test.each([
    ['a frame before the welcome', () => [session.renew(), session.opened(), session.received(frame(0, 1, BYTES), 0)]],
    ['a second welcome', () => [connect(), hear(WELCOME)]],
    ['another first message', () => [session.renew(), session.opened(), hear(ACCEPTED)]],
    ['a frame out of turn', () => [connect(), session.received(frame(1, 1, BYTES), 0)]],
    ['a part before it is known how many', () => [connect(), ask(), session.received(frame(0, 1, BYTES), 0)]],
    ['a part too many', () => [connect(), ask(), hear(coded), session.received(frame(0, 3, BYTES), 0)]],
    ['too many parts', () => [connect(), ask(), hear({ ...coded, parts: 65 })]],
    ['done without all parts', () => [connect(), ask(), hear(coded), hear(done)]],
    ['no message', () => [connect(), session.received('{}', 0)]],
  ])('that breaks the protocol by %s is closed and tried again', (_, act) => {
    const actions = act().at(-1) ?? []
    expect(actions[0]).toEqual({ do: 'close' })
    expect(told(actions)).toMatchObject([{ kind: 'link', state: 'waiting', refused: false }])
  })

  test('that the server refuses is tried again, with what it said', () => {
    session.renew()
    session.opened()
    const actions = hear({ type: 'error', code: 'too_many', message: 'too many connections of this address' })
    expect(actions[0]).toEqual({ do: 'close' })
    expect(told(actions)).toMatchObject([{ kind: 'link', state: 'waiting', why: 'too many connections of this address', refused: true }])
  })
})
