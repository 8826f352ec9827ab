import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { type Browser, type BrowserContext, type BrowserContextOptions, chromium, type Page } from 'playwright-core'

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** Screens that the page is tried on. */
export const SCREENS = {
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  'phone on its side': { viewport: { width: 844, height: 390 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  desktop: { viewport: { width: 1280, height: 800 } },
} as const satisfies Record<string, BrowserContextOptions>

/** A page, and what it said and asked for. */
export interface Visit {
  readonly context: BrowserContext
  readonly page: Page
  /** Errors and warnings of the console, and exceptions. */
  readonly complaints: string[]
  readonly requests: string[]
}

/** The Chromium at CHROMIUM, or Debian's. */
export function launch(): Promise<Browser> {
  return chromium.launch({ executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium', args: ARGS })
}

/** A first visit; `first` runs in the page before its own scripts. */
export async function visit(browser: Browser, url: string, options: BrowserContextOptions, first?: () => void): Promise<Visit> {
  const context = await browser.newContext(options)
  if (first !== undefined) await context.addInitScript(first)
  const page = await context.newPage()
  const complaints: string[] = []
  const requests: string[] = []
  context.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') complaints.push(message.text())
  })
  page.on('pageerror', (error) => complaints.push(error.message))
  context.on('request', (request) => requests.push(request.url()))
  page.on('websocket', (socket) => requests.push(socket.url()))
  await page.goto(url)
  await page.waitForSelector('#link[data-state=open]')
  return { context, page, complaints, requests }
}

/** Wait until decoding has been measured here. */
export async function ready(page: Page): Promise<void> {
  await page.waitForFunction(() => localStorage.getItem('megen.decode_s') !== null, null, { timeout: 120_000 })
}

/** Keep what the worker says that each whole picture took, from its parts to its pixels, as `decodedInS`; for `visit`. */
export function recordDecoding(): void {
  const seconds: number[] = []
  const Plain = Worker
  const Recording = class extends Plain {
    constructor(...given: ConstructorParameters<typeof Worker>) {
      super(...given)
      this.addEventListener('message', ({ data }: MessageEvent<{ kind: string; final?: boolean; seconds?: number }>) => {
        if (data.kind === 'picture' && data.final === true) seconds.push(data.seconds ?? NaN)
      })
    }
  }
  Object.assign(globalThis, { Worker: Recording, decodedInS: seconds })
}

/** What `recordDecoding` kept, in milliseconds. */
export async function decodedMs(page: Page): Promise<readonly number[]> {
  const decodedInS = await page.evaluate(() => (globalThis as unknown as { decodedInS: number[] }).decodedInS)
  return decodedInS.map((seconds) => 1000 * seconds)
}

/** The median, rounded. */
export function median(values: readonly number[]): number {
  return Math.round([...values].sort((a, b) => a - b)[values.length >> 1])
}

/** The renderer that has worked most: its number, and its CPU seconds. */
export async function renderer(browser: Browser): Promise<{ readonly id: number; readonly cpuTime: number }> {
  const cdp = await browser.newBrowserCDPSession()
  const { processInfo } = await cdp.send('SystemInfo.getProcessInfo')
  return processInfo.filter(({ type }) => type === 'renderer').sort((a, b) => b.cpuTime - a.cpuTime)[0]
}

/** The most memory that the renderer had, in MB. */
export async function peakMb(browser: Browser): Promise<number> {
  const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${(await renderer(browser)).id}/status`, 'utf8'))?.[1]
  return Math.round((Number(peak) * 1024) / 1e6)
}

/** The payload of the first picture that the page keeps. */
export async function payloadOf(page: Page): Promise<Uint8Array> {
  const bytes = await page.evaluate(async () => {
    const opening = indexedDB.open('megen')
    const database = await new Promise<IDBDatabase>((resolve) => (opening.onsuccess = () => resolve(opening.result)))
    const reading = database.transaction('pictures').objectStore('pictures').getAll()
    const [entry] = await new Promise<{ payload: Uint8Array }[]>((resolve) => (reading.onsuccess = () => resolve(reading.result)))
    return Array.from(entry.payload)
  })
  return Uint8Array.from(bytes)
}

/** Fill the form as a person does. */
export async function fill(page: Page, prompt: string, steps: number | null, seed: number | null): Promise<void> {
  await page.fill('#prompt', prompt)
  const open = await page.locator('.options').evaluate((details: HTMLDetailsElement) => details.open)
  if (!open) await page.click('.options summary')
  await page.check(`input[name=steps][value="${steps ?? ''}"]`)
  await page.fill('#seed', seed === null ? '' : String(seed))
  await page.click('.options summary')
}

/** Wait until a whole picture is shown and kept. */
export async function whole(page: Page): Promise<void> {
  await page.waitForSelector('#frame[data-state=whole]', { timeout: 120_000 })
  await page.waitForSelector('#draw:enabled', { timeout: 30_000 })
}

/** Names of the files that the browser keeps. */
export function kept(page: Page): Promise<readonly (string | undefined)[]> {
  return page.evaluate(async () => {
    const keys = await Promise.all((await caches.keys()).map(async (name) => (await caches.open(name)).keys()))
    return keys.flat().map(({ url }) => url.split('/').at(-1))
  })
}

/** Kept pictures get the form that they had in the page's first version: with a blob for a thumbnail. */
export async function asAnEarlierPageKept(page: Page): Promise<void> {
  await page.evaluate(async () => {
    const answerOf = <T>(request: IDBRequest<T>) =>
      new Promise<T>((resolve, reject) => {
        request.onsuccess = () => resolve(request.result)
        request.onerror = () => reject(request.error)
      })
    const store = (await answerOf(indexedDB.open('megen'))).transaction('pictures', 'readwrite').objectStore('pictures')
    for (const entry of (await answerOf(store.getAll())) as { thumbnail: { type: string; bytes: ArrayBuffer } }[]) {
      const { type, bytes } = entry.thumbnail
      await answerOf(store.put({ ...entry, thumbnail: new Blob([bytes], { type }) }))
    }
  })
}

/** From now on the page's requests ask for merged and coarsely quantised features. */
export function coarsely(page: Page): Promise<void> {
  return saying(page, 'generate', { merge_ratio: 0.5, quantiser_bits: 1 })
}

/** From now on the page does not say what decoding takes here: a server that could decode too leaves it to the page. */
export function unmeasured(page: Page): Promise<void> {
  return saying(page, 'hello', { decode_s: null })
}

/** From now on the page's messages of a type have these fields. */
async function saying(page: Page, type: string, fields: Readonly<Record<string, number | null>>): Promise<void> {
  await page.evaluate(
    ({ type, fields }) => {
      const send = WebSocket.prototype.send
      WebSocket.prototype.send = function (data: Parameters<typeof send>[0]) {
        const meant = typeof data === 'string' && data.includes(`"${type}"`)
        send.call(this, meant ? JSON.stringify({ ...JSON.parse(data), ...fields }) : data)
      }
    },
    { type, fields },
  )
}

/** From its next load on the page hears that its requests wait at these positions, one after the other, and nothing else of them. */
export async function queued(page: Page, positions: readonly number[], everyMs: number): Promise<void> {
  await page.routeWebSocket(/\/v1\/ws$/, (near) => {
    const far = near.connectToServer()
    far.onMessage((message) => {
      if (typeof message !== 'string') return
      const said = JSON.parse(message) as { type: string }
      if (said.type === 'welcome') near.send(message)
      if (said.type !== 'accepted') return
      positions.forEach((position, k) => setTimeout(() => near.send(JSON.stringify({ ...said, position })), k * everyMs))
    })
  })
}

/** Types of the page's messages of requests, as they are sent. */
export function asked(page: Page): readonly string[] {
  const types: string[] = []
  page.on('websocket', (socket) => {
    socket.on('framesent', ({ payload }) => {
      const { type } = JSON.parse(String(payload)) as { type: string }
      if (['generate', 'resume', 'cancel'].includes(type)) types.push(type)
    })
  })
  return types
}

/** The largest difference between the picture on the page and a PNG file, in levels; infinite where their sizes differ. */
export function difference(page: Page, png: Buffer): Promise<number> {
  return page.evaluate(async (base64) => {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0))
    const bitmap = await createImageBitmap(new Blob([bytes], { type: 'image/png' }))
    const mine = document.querySelector('canvas')
    if (mine === null || mine.width !== bitmap.width || mine.height !== bitmap.height) return Infinity
    const other = new OffscreenCanvas(bitmap.width, bitmap.height).getContext('2d')
    other?.drawImage(bitmap, 0, 0)
    const [a, b] = [mine.getContext('2d'), other].map((context) => context?.getImageData(0, 0, bitmap.width, bitmap.height).data)
    if (a === undefined || b === undefined) return Infinity
    return a.reduce((most, value, k) => Math.max(most, Math.abs(value - b[k])), 0)
  }, png.toString('base64'))
}

/** What axe-core has against the page, in a line each. */
export async function violations(page: Page): Promise<readonly string[]> {
  await page.evaluate(AXE)
  return page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> } }
    const { violations } = await axe.run()
    return violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html.slice(0, 120)}`))
  })
}
