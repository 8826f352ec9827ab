import { type CodecFile, type Features, readCodecFile, unpack } from '../codec'
import { cleaned, fetchCleaner } from './cleaner'
import { free, Graph } from './graph'
import { Incoming } from './incoming'
import { keptFile } from './kept'
import type { Answer, Files, Order } from './messages'

/** Without a new part for so long, what is there is decoded: a picture that waits for the rest is better than none. */
const QUIET_MS = 150
const MEASURED_RUNS = 3
/** A run that takes longer is measured once: its setting up is small beside it, and it keeps a phone busy. */
const LONG_S = 3

interface Loaded {
  readonly fingerprint: number
  readonly codec: CodecFile
  readonly graph: Graph
}

/** A payload of which parts come, those that were not taken in yet, and what decoding others took before the last one came. */
interface Wanted {
  readonly id: string
  readonly files: Files
  readonly total: number
  readonly parts: Map<number, Uint8Array>
  aheadMs: number
}

let loading: { readonly fingerprint: number; readonly loaded: Promise<Loaded> } | null = null
/** The order that is being followed, and after it the next. */
let last: Promise<void> = Promise.resolve()
let current: Wanted | null = null
let incoming: Incoming | null = null
let timer: ReturnType<typeof setTimeout> | undefined

function say(answer: Answer, transfer: Transferable[] = []): void {
  self.postMessage(answer, { transfer })
}

/** Codec and graph of a backbone; one is held at a time. */
async function load(files: Files): Promise<Loaded> {
  if (loading?.fingerprint === files.fingerprint) return loading.loaded
  const before = loading?.loaded
  const read = async (): Promise<Loaded> => {
    await before?.then(({ graph }) => graph.release()).catch(() => undefined)
    let bytes = 0
    const arrived = (more: number) => say({ kind: 'loading', bytes: (bytes += more) })
    const codec = readCodecFile(await keptFile(files.codec, arrived))
    return { fingerprint: files.fingerprint, codec, graph: await Graph.load(files, arrived) }
  }
  const loaded = read()
  loading = { fingerprint: files.fingerprint, loaded }
  loaded.catch(() => (loading = null))
  return loaded
}

async function prepare(files: Files, measure: boolean): Promise<void> {
  try {
    const { graph } = await load(files)
    const decodeS = measure ? await measured(graph, files) : null
    say({ kind: 'ready', decodeS })
  } catch (error) {
    say({ kind: 'broken', why: reason(error) })
  }
}

/**
 * The median of what decoding takes, on features that are all 0, without the first run, which sets memory up (but where it is long
 * enough to tell); null: a picture came.
 */
async function measured(graph: Graph, { shape: [channels, height, width] }: Files): Promise<number | null> {
  const tokens = height * width
  const rows = new Float32Array(tokens * channels)
  const features: Features = {
    rows,
    mergeMap: Int32Array.from({ length: tokens }, (_, k) => k),
    degradation: new Float32Array(4 * tokens),
    height,
    width,
    channels,
  }
  const seconds: number[] = []
  for (let run = 0; run <= MEASURED_RUNS; run++) {
    const beganMs = performance.now()
    const { rgba } = await graph.run(features)
    seconds.push((performance.now() - beganMs) / 1000)
    free(rgba.buffer)
    await new Promise((resolve) => setTimeout(resolve))
    if (current !== null) return null
    if (seconds[0] > LONG_S) return seconds[0]
  }
  return seconds.slice(1).sort((a, b) => a - b)[MEASURED_RUNS >> 1]
}

/** The current payload with all that has arrived of it, and what shows it. */
async function taken(wanted: Wanted): Promise<[Incoming, Graph] | null> {
  const { codec, graph } = await load(wanted.files)
  if (current !== wanted) return null
  incoming ??= new Incoming(codec, wanted.files, wanted.total)
  for (const [number, data] of wanted.parts) incoming.take(number, data)
  wanted.parts.clear()
  return [incoming, graph]
}

/** Decode features while others arrive. */
async function ahead(): Promise<void> {
  const wanted = current
  if (wanted === null || wanted.parts.size === 0) return
  try {
    const found = await taken(wanted)
    const beganMs = performance.now()
    found?.[0].ahead()
    wanted.aheadMs += performance.now() - beganMs
  } catch (error) {
    if (current === wanted) refuse(wanted.id, error)
  }
}

/** Decode what has arrived of the current payload, if anything is new. */
async function decode(): Promise<void> {
  const wanted = current
  if (wanted === null) return
  try {
    const found = await taken(wanted)
    if (found === null || !found[0].fresh) return
    const [incoming, graph] = found
    const { whole, parts, total } = incoming
    const beganMs = performance.now()
    const [features, denoiser] = [incoming.features(), wanted.files.denoiser ?? null]
    const given = whole ? await cleaned(features, denoiser) : features
    const pixels = await graph.run(given)
    const seconds = (performance.now() - beganMs + wanted.aheadMs) / 1000
    if (current !== wanted) return
    const { id } = wanted
    say({ kind: 'picture', id, ...pixels, parts, of: total - 2, final: whole, cleaned: given !== features, seconds }, [pixels.rgba.buffer])
    if (!whole) return
    forget()
    fetchCleaner(features, denoiser).catch(() => undefined)
  } catch (error) {
    if (current === wanted) refuse(wanted.id, error)
  }
}

function forget(): void {
  current = incoming = null
}

function refuse(id: string, error: unknown): void {
  forget()
  say({ kind: 'refused', id, why: reason(error) })
}

/** Decode after a pause, in which parts that are on their way are taken in first; orders follow one another. */
function schedule(ms: number): void {
  clearTimeout(timer)
  timer = setTimeout(() => (last = last.then(decode)), ms)
}

function open(id: string, files: Files, total: number): void {
  if (current?.id === id) return
  current = { id, files, total, parts: new Map(), aheadMs: 0 }
  incoming = null
}

function take(id: string, number: number, data: Uint8Array): void {
  if (current?.id !== id) return
  current.parts.set(number, data)
  const count = current.parts.size + (incoming === null ? 0 : incoming.count)
  const whole = count >= current.total
  if (!whole) last = last.then(ahead)
  schedule(whole ? 0 : QUIET_MS)
}

function payload(id: string, files: Files, data: Uint8Array): void {
  try {
    const { header, map, features } = unpack(data)
    const parts = [header, map, ...features]
    open(id, files, parts.length)
    parts.forEach((part, number) => take(id, number, part))
  } catch (error) {
    refuse(id, error)
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

self.onmessage = ({ data: order }: MessageEvent<Order>) => {
  if (order.kind === 'prepare') last = last.then(() => prepare(order.files, order.measure))
  else if (order.kind === 'open') open(order.id, order.files, order.total)
  else if (order.kind === 'part') take(order.id, order.number, order.data)
  else if (order.kind === 'payload') payload(order.id, order.files, order.data)
  else if (current?.id === order.id) forget()
}
