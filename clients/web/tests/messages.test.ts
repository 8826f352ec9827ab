import { describe, expect, test } from 'vitest'
import { ProtocolError } from '../src/protocol/messages'
import { readMessage } from '../src/protocol/read'
import { ACCEPTED, ID, WELCOME } from './said'

const accepted = (change: object) => JSON.stringify({ ...ACCEPTED, ...change })

describe('what the server says', () => {
  test('messages are read; what is left out is null', () => {
    expect(readMessage(JSON.stringify(WELCOME))).toEqual(WELCOME)
    expect(readMessage(accepted({}))).toEqual({ ...ACCEPTED, fits: null, expected_s: null })
    expect(readMessage(JSON.stringify({ ...WELCOME, receiver: undefined, codec: undefined, tiles: undefined }))).toEqual({
      ...WELCOME,
      receiver: null,
      codec: null,
      tiles: null,
    })
    const coded = { type: 'coded', id: ID, parts: 3, bytes: 40 }
    expect(readMessage(JSON.stringify(coded))).toEqual({ ...coded, picture: null })
    expect(readMessage(JSON.stringify({ ...coded, picture: 'image/webp' }))).toEqual({ ...coded, picture: 'image/webp' })
    const done = { type: 'done', id: ID, report: { anything: [1, 'two'] } }
    expect(readMessage(JSON.stringify(done))).toEqual(done)
    const error = { type: 'error', code: 'busy', message: 'the queue is full' }
    expect(readMessage(JSON.stringify(error))).toEqual({ ...error, id: null, retryable: false, retry_after_s: null })
  })

  test.each([
    ['no JSON', '{', 'message: not an object'],
    ['a list', '[]', 'message: not an object'],
    ['another type', '{"type":"hello"}', 'a message of type hello'],
    ['a type of all objects', '{"type":"constructor"}', 'a message of type constructor'],
    ['another id', accepted({ id: ID.toUpperCase() }), 'accepted.id: not the id of a request'],
    ['a text for a number', accepted({ position: '0' }), 'accepted.position: not a whole number'],
    ['a part of a place', accepted({ position: 0.5 }), 'accepted.position: not a whole number'],
    ['a number for a text', accepted({ added: [1] }), 'accepted.added.0: not a text'],
    ['a missing field', accepted({ decision: { steps: 4, merge_ratio: 0 } }), 'accepted.decision.quantiser_bits: not a number'],
    ['a field too many', accepted({ decision: { ...ACCEPTED.decision, colour: 1 } }), 'accepted.decision.colour: not a field'],
    ['another protocol', JSON.stringify({ ...WELCOME, protocol: 4 }), 'welcome.protocol: not a whole number of 1 to 3'],
    ['tiles of nothing', JSON.stringify({ ...WELCOME, tiles: { ...WELCOME.tiles, side: 0 } }), 'welcome.tiles.side: not a whole number'],
    ['tiles of another site', JSON.stringify({ ...WELCOME, tiles: { ...WELCOME.tiles, tail: '//a.org/t' } }), 'welcome.tiles.tail: not a path'],
    ['another site', JSON.stringify({ ...WELCOME, codec: '//example.org/codec' }), 'welcome.codec: not a path of this server'],
    ['another code', '{"type":"error","code":"odd","message":""}', 'error.code: not one of'],
    ['too much', JSON.stringify({ ...ACCEPTED, prompt: 'ü'.repeat(40_000) }), 'a control message has at most 65536 bytes'],
  ])('%s is refused', (_, text, why) => {
    expect(() => readMessage(text)).toThrow(ProtocolError)
    expect(() => readMessage(text)).toThrow(why)
  })
})
