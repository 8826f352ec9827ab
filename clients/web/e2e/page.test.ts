import { mkdtemp, readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Browser } from 'playwright-core'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { asAnEarlierPageKept, asked, coarsely, difference, fill, kept, launch, queued, ready, SCREENS, type Visit, violations, visit, whole } from './browser'
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
    expect(await page.getAttribute('#picture', 'aria-label')).toBe(PROMPT)
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
    expect(await status()).toBe('Decoded again on this device.')
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

describe('on a phone, what is there stays', () => {
  const shows = async (prompt: string) => {
    const { page } = seen
    expect(await page.getAttribute('#frame', 'data-state')).toBe('whole')
    expect(await page.getAttribute('#picture', 'aria-label')).toBe(prompt)
    expect(await page.textContent('#caption .said')).toBe(prompt)
    expect(await page.isVisible('#save')).toBe(true)
    expect(await difference(page, twin)).toBeLessThanOrEqual(1)
  }

  test('where the next request is cancelled or refused', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page } = seen
    await ready(page)
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await whole(page)
    await fill(page, 'a castle at night', 12, null)
    await page.click('#draw')
    await page.waitForSelector('#frame[data-state=rough]')
    expect(await page.getAttribute('#picture', 'aria-label')).toBe('a castle at night')
    await page.click('#cancel')
    expect(await status()).toBe('Cancelled.')
    await shows(PROMPT)
    await fill(page, '🏰', 4, null)
    await page.click('#draw')
    await page.waitForSelector('#problem:visible')
    await shows(PROMPT)
  })

  test('and connected, where the server has the next request wait', async () => {
    const limited = await startServer(['--requests-a-minute', '1'])
    try {
      seen = await visit(browser, limited.url.href, SCREENS.phone)
      const { page } = seen
      await ready(page)
      await fill(page, PROMPT, 4, SEED)
      await page.click('#draw')
      await whole(page)
      await page.click('#variation')
      await page.waitForFunction(() => document.querySelector('#status')?.textContent?.startsWith('Too many requests. Trying again in '))
      expect(await page.textContent('#link')).toBe('Connected')
      expect(await page.isHidden('#offline')).toBe(true)
      await shot('phone-too-many')
      await page.click('#cancel')
      expect(await page.textContent('#link')).toBe('Connected')
      await shows(PROMPT)
    } finally {
      limited.stop()
    }
  })

  test('of the form and the request, where the page is loaded again', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page } = seen
    const types = asked(page)
    await ready(page)
    await page.reload()
    await page.waitForSelector('#link[data-state=open]')
    await fill(page, PROMPT, 4, SEED)
    await page.click('#draw')
    await page.waitForFunction(() => document.querySelector('#status')?.textContent?.startsWith('Drawing'))
    await page.reload()
    await whole(page)
    await shows(PROMPT)
    expect(types).toEqual(['generate', 'resume'])
    await page.goto('about:blank')
    await page.goBack()
    await page.waitForSelector('#link[data-state=open]')
    expect(await page.inputValue('#prompt')).toBe(PROMPT)
    expect(await page.inputValue('#seed')).toBe(String(SEED))
    expect(await page.isChecked('input[name=steps][value="4"]')).toBe(true)
    expect(await page.getAttribute('.chip[aria-pressed=true]', 'class')).toBe('chip')
    expect(types).toEqual(['generate', 'resume'])
  })
})

describe('the page', () => {
  test('says each new place in the line', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page } = seen
    await queued(page, [9, 4, 0], 500)
    await page.reload()
    await page.waitForSelector('#link[data-state=open]')
    await page.fill('#prompt', 'a castle')
    await page.click('#draw')
    for (const line of ['In line, 9 ahead of you.', 'In line, 4 ahead of you.', 'The server begins.']) {
      await page.waitForFunction((line) => document.querySelector('#status')?.textContent === line, line, { polling: 20 })
    }
  })

  test('shows a wrong seed where the options are closed', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page, complaints } = seen
    await fill(page, PROMPT, 4, -1)
    await page.click('#draw')
    await page.waitForSelector('#seed:focus')
    expect(await page.isVisible('#seed')).toBe(true)
    expect(complaints).toEqual([])
  })

  test('keeps a long prompt short until it is opened', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page } = seen
    const prompt = 'a castle at dawn, '.repeat(110)
    await fill(page, prompt, 1, SEED)
    await page.click('#draw')
    await whole(page)
    const high = async () => (await page.locator('#caption .said').boundingBox())?.height ?? 0
    expect(await high()).toBeLessThan(80)
    await shot('phone-long')
    expect(await axe()).toEqual([])
    await page.click('#caption .said summary')
    expect(await high()).toBeGreaterThan(500)
  })

  test('shows picture and button at once on a phone on its side', async () => {
    seen = await visit(browser, url, SCREENS['phone on its side'])
    const { page } = seen
    for (const id of ['#frame', '#draw']) {
      const box = await page.locator(id).boundingBox()
      expect((box?.y ?? 0) + (box?.height ?? 0)).toBeLessThanOrEqual(390)
    }
  })

  test('fits where the browser doubles its font size', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page } = seen
    await page.evaluate(() => (document.documentElement.style.fontSize = '200%'))
    await shot('phone-large-type')
    expect(await page.evaluate(() => getComputedStyle(document.body).fontSize)).toBe('32px')
    expect(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)).toBeLessThanOrEqual(0)
  })

  test('in another tab has the pictures of this one', async () => {
    seen = await visit(browser, url, SCREENS.phone)
    const { page, context } = seen
    const other = await context.newPage()
    await other.goto(url)
    await fill(page, 'a castle', 1, SEED)
    await page.click('#draw')
    await whole(page)
    await other.waitForFunction(() => document.querySelector('#count')?.textContent === '1')
    await page.click('#delete')
    await other.waitForSelector('#shelf', { state: 'hidden' })
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
