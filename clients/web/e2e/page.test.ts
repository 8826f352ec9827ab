import { mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Browser } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { asAnEarlierPageKept, coarsely, difference, fill, kept, launch, ready, SCREENS, type Visit, violations, visit, whole } from './browser'
import { Proxy } from './proxy'
import { python, startServer } from './server'

const PROMPT = 'a lighthouse at sunset, snowy mountains, a dragon'
const SEED = 3

let server: Awaited<ReturnType<typeof startServer>>
let proxy: Proxy
let browser: Browser
let url: string
let folder: string
let twin: Buffer
let seen: Visit

const status = () => seen.page.textContent('#status')
const shot = (name: string) => seen.page.screenshot({ path: join(folder, `${name}.png`), fullPage: true })

async function axe(): Promise<string[]> {
  const found: string[] = []
  for (const colorScheme of ['light', 'dark'] as const) {
    await seen.page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    found.push(...(await violations(seen.page)).map((line) => `${colorScheme}: ${line}`))
  }
  await seen.page.emulateMedia({ colorScheme: null, reducedMotion: null })
  return found
}

beforeAll(async () => {
  server = await startServer()
  proxy = new Proxy(server.url)
  url = await proxy.start()
  browser = await launch()
  folder = await mkdtemp(join(tmpdir(), 'megen-web-'))
  console.log(`screenshots in ${folder}`)
  const out = join(folder, 'twin.png')
  const options = ['--steps', '4', '--merge-ratio', '0', '--seed', String(SEED), '--out', out]
  await python('megen', ['ask', PROMPT, '--server', server.url.href, ...options])
  twin = await readFile(out)
})

afterEach(async () => {
  proxy.rate = null
  proxy.mend()
  await seen.context.close()
})

afterAll(async () => {
  await browser?.close()
  proxy?.stop()
  server?.stop()
})

describe.each(Object.entries(SCREENS))('on a %s', (screen, options) => {
  test('a prompt becomes the picture that the Python user equipment decodes', async () => {
    seen = await visit(browser, url, options)
    const { page, complaints, requests } = seen
    await ready(page)
    await shot(`${screen}-idle`)
    expect(await axe()).toEqual([])
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await page.waitForSelector('#frame[data-state=rough]')
    expect(await status()).toMatch(/step \d of 4|part|Developing/)
    await shot(`${screen}-preview`)
    await whole(page)
    expect(await difference(page, twin)).toBeLessThanOrEqual(1)
    expect(await page.textContent('#caption .added')).toContain('added: ')
    expect(await page.textContent('#caption .missing')).toBe('not in this world: dragon')
    await page.click('#result summary')
    expect(await page.textContent('#facts')).toContain("Server's energy, modelled")
    await shot(`${screen}-done`)
    expect(await axe()).toEqual([])
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0)
    expect(complaints).toEqual([])
    expect(requests.filter((address) => !/^(https?|ws|blob):/.test(address) || !address.includes(new URL(url).host))).toEqual([])
  })
})

describe('on a phone', () => {
  test('a request is cancelled, and another one follows', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page, complaints } = seen
    await fill(page, PROMPT, 12, null)
    await page.click('#draw')
    await page.waitForFunction(() => document.querySelector('#status')?.textContent?.startsWith('Drawing'))
    expect(await page.isDisabled('#draw')).toBe(true)
    await page.click('#cancel')
    expect(await status()).toBe('Cancelled.')
    expect(await page.isHidden('#cancel')).toBe(true)
    expect(await page.getAttribute('#frame', 'data-state')).toBe('idle')
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await whole(page)
    expect(await difference(page, twin)).toBeLessThanOrEqual(1)
    expect(complaints).toEqual([])
  })

  test('a cut connection is resumed', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page, complaints } = seen
    await ready(page)
    await page.waitForSelector('#link[data-state=open]')
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await page.waitForFunction(() => document.querySelector('#status')?.textContent?.startsWith('Drawing'))
    proxy.cut()
    await page.waitForFunction(() => document.querySelector('#status')?.textContent?.startsWith('The connection is lost'))
    await shot('phone-cut')
    proxy.mend()
    await whole(page)
    expect(await difference(page, twin)).toBeLessThanOrEqual(1)
    await page.click('#result summary')
    expect(await page.textContent('#facts')).toContain('lost once, and resumed')
    expect(complaints.filter((line) => !/WebSocket connection|ERR_/.test(line))).toEqual([])
  })

  test('on a slow link the picture sharpens with its parts', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page } = seen
    await ready(page)
    await page.waitForSelector('#link[data-state=open]')
    await fill(page, PROMPT, 2, SEED)
    await page.click('#draw')
    proxy.rate = 800
    await page.waitForSelector('#frame[data-state=part]', { timeout: 60_000 })
    expect(await status()).toMatch(/received, part \d of \d/)
    await shot('phone-sharpening')
    await whole(page)
  })

  test('the history opens offline, and its pictures are decoded again', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page, context, complaints } = seen
    await ready(page)
    await page.waitForSelector('#link[data-state=open]')
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await whole(page)
    await page.evaluate(() => navigator.serviceWorker.ready)
    await asAnEarlierPageKept(page)
    expect(complaints).toEqual([])

    proxy.cut()
    await context.setOffline(true)
    await page.reload()
    await page.waitForSelector('#link[data-state=waiting]')
    expect(await page.textContent('#link')).toBe('Offline')
    await page.waitForSelector('#offline')
    await page.click('#pictures button')
    await page.waitForSelector('#frame[data-state=whole]', { timeout: 60_000 })
    expect(await difference(page, twin)).toBeLessThanOrEqual(1)
    await shot('phone-offline')
    expect(await axe()).toEqual([])

    await page.click('#delete')
    await page.waitForSelector('#shelf', { state: 'hidden' })
    expect(complaints.filter((line) => !/WebSocket connection|ERR_/.test(line))).toEqual([])
    proxy.mend()
    await context.setOffline(false)
    await page.waitForSelector('#link[data-state=open]')
  })

  test('coarse features are cleaned from the second picture on, as the Python user equipment cleans them', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page, complaints } = seen
    await coarsely(page)
    await ready(page)
    const made = join(folder, 'coarse.png')
    const options = ['--steps', '4', '--merge-ratio', '0.5', '--quantiser-bits', '1', '--seed', String(SEED), '--out', made]
    await python('megen', ['ask', PROMPT, '--server', server.url.href, ...options])
    const cleaned = await readFile(made)
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await whole(page)
    expect(await difference(page, cleaned)).toBeGreaterThan(1)
    await expect.poll(() => kept(page), { timeout: 30_000 }).toContain('denoiser.onnx')
    await page.click('#again')
    await page.waitForSelector('#frame[data-state=rough]')
    await whole(page)
    expect(await difference(page, cleaned)).toBeLessThanOrEqual(1)
    await shot('phone-cleaned')
    expect(complaints.filter((line) => !line.includes('willReadFrequently'))).toEqual([])
  })

  test('all of it is reached by the keyboard', async () => {
    seen = await visit(browser, url, SCREENS.desktop)
    const { page } = seen
    const reached = new Set<string>()
    for (let k = 0; k < 60; k++) {
      await page.keyboard.press('Tab')
      reached.add(await page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent || ''))
    }
    for (const stop of ['prompt', 'surprise', 'draw', 'a castle', 'Options']) expect(reached).toContain(stop)
    await page.focus('#prompt')
    await page.keyboard.type('a cabin at night')
    await page.keyboard.press('Enter')
    await page.waitForSelector('#cancel:visible')
    await page.click('#cancel')
  })
})

describe('of a backbone that no phone decodes', () => {
  test('the server decodes, and the picture is kept', async () => {
    const checkpoint = join(folder, 'sdxl')
    const write = 'import sys, pathlib; from experiments import tiny_checkpoints as t; t.write("sdxl", pathlib.Path(sys.argv[1]))'
    await python('python', ['-c', write, checkpoint])
    const published = await startServer(['--backbone', checkpoint])
    try {
      seen = await visit(browser, published.url.href, SCREENS.phone)
      const { page, complaints, requests } = seen
      await page.waitForSelector('#link[data-state=open]')
      await page.fill('#prompt', 'a castle at dawn')
      await page.click('#draw')
      await whole(page)
      expect(await page.evaluate(() => document.querySelector<HTMLCanvasElement>('#picture')?.width)).toBe(32)
      expect(requests.filter((address) => address.includes('/decode/'))).toEqual([])
      await page.waitForSelector('#pictures button')
      await page.reload()
      await page.click('#pictures button')
      await page.waitForFunction(() => document.querySelector('#status')?.textContent === 'Kept on this device.')
      await shot('published')
      expect(complaints).toEqual([])
    } finally {
      published.stop()
    }
  })
})
