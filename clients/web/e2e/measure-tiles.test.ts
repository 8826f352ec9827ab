import { mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { decodedMs, difference, fill, kept, launch, median, payloadOf, peakMb, ready, recordDecoding, SCREENS, unmeasured, visit, whole } from './browser'
import { python, startServer } from './server'

const RUNS = 3
const MOST_LEVELS = 1
const RESULT = new URL('tiles.json', import.meta.url)
const SCRIPT = new URL('tiles.py', import.meta.url).pathname

test('a decoder in tiles makes the same picture in the page as in Python', { timeout: 600_000 }, async () => {
  const folder = await mkdtemp(join(tmpdir(), 'megen-tiles-'))
  const file = (await python('python', [SCRIPT, folder])).trim().split('\n').at(-1) ?? ''
  const server = await startServer(['--backbone', file])
  const browser = await launch()
  try {
    const { page, complaints } = await visit(browser, server.url.href, SCREENS.phone, recordDecoding)
    await unmeasured(page)
    await ready(page)
    await fill(page, 'a castle at dawn', 2, 3)
    await page.click('#draw')
    await whole(page)
    expect(await kept(page)).toContain('receiver-tail.onnx')
    for (let run = 1; run < RUNS; run++) {
      await page.click('#pictures button')
      await page.waitForSelector('#frame:not([data-state=whole])')
      await whole(page)
    }
    const decodeMs = await decodedMs(page)
    const rendererPeakMb = await peakMb(browser)
    const payload = await payloadOf(page)
    const [data, png] = [join(folder, 'payload'), join(folder, 'picture.png')]
    await writeFile(data, payload)
    const twin = JSON.parse(await python('python', [SCRIPT, folder, data, png, String(RUNS)])) as { wall_ms: number[] }
    const levels = await difference(page, await readFile(png))
    const result = {
      payload_bytes: payload.length,
      browser: browser.version(),
      decode_ms: { browser: median(decodeMs), python_1_thread: median(twin.wall_ms) },
      renderer_peak_mb: rendererPeakMb,
      levels,
      runs: RUNS,
      note: 'a decoder of the size of TAESD with random weights, 1024 px, in tiles: decode_ms from the parts to pixels; levels: the largest difference of the pictures',
    }
    await writeFile(RESULT, `${JSON.stringify(result, null, 2)}\n`)
    console.log(result)
    expect(complaints).toEqual([])
    expect(levels).toBeLessThanOrEqual(MOST_LEVELS)
  } finally {
    await browser.close()
    server.stop()
  }
})
