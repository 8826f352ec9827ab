import { mkdtemp, writeFile } from 'node:fs/promises'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { coarsely, decodedMs, fill, kept, launch, median, payloadOf, peakMb, ready, recordDecoding, renderer, SCREENS, visit, whole } from './browser'
import { Proxy } from './proxy'
import { python, startServer } from './server'

const RUNS = 3
const MOST_FIRST_VISIT_BYTES = 13e6
const RESULT = new URL('result.json', import.meta.url)

test('figures of the first visit, decoding and memory', async () => {
  const server = await startServer()
  const proxy = new Proxy(server.url)
  const url = await proxy.start()
  const browser = await launch()
  try {
    const { page } = await visit(browser, url, SCREENS.phone, recordDecoding)
    await ready(page)
    await page.evaluate(() => navigator.serviceWorker.ready)
    await page.waitForSelector('#link[data-state=open]')
    const firstVisitBytes = proxy.bytesDown
    await fill(page, 'a lighthouse at sunset, snowy mountains', 4, 3)
    await page.click('#draw')
    await whole(page)

    const cpuMs: number[] = []
    const wallMs: number[] = []
    for (let run = 0; run < RUNS; run++) {
      const [before, beganMs] = [(await renderer(browser)).cpuTime, performance.now()]
      await page.click('#pictures button')
      await page.waitForSelector('#frame:not([data-state=whole])')
      await whole(page)
      wallMs.push(performance.now() - beganMs)
      cpuMs.push(1000 * ((await renderer(browser)).cpuTime - before))
    }
    const decodeMs = async () => (await decodedMs(page)).slice(-RUNS)
    const fine = { decodeMs: await decodeMs(), peakMb: await peakMb(browser) }
    const payload = await payloadOf(page)
    await coarsely(page)
    await page.click('#again')
    await page.waitForSelector('#frame:not([data-state=whole])')
    await whole(page)
    await expect.poll(() => kept(page), { timeout: 60_000 }).toContain('denoiser.onnx')
    for (let run = 0; run < RUNS; run++) {
      await page.click('#pictures button')
      await page.waitForSelector('#frame:not([data-state=whole])')
      await whole(page)
    }
    const coarse = { decode_ms: median(await decodeMs()), renderer_peak_mb: await peakMb(browser) }
    const file = join(await mkdtemp(join(tmpdir(), 'megen-web-')), 'payload')
    await writeFile(file, payload)
    const script = new URL('measure.py', import.meta.url).pathname
    const twin = JSON.parse(await python('python', [script, String(RUNS), file])) as { cpu_ms: number[]; wall_ms: number[] }

    const result = {
      first_visit_bytes: firstVisitBytes,
      payload_bytes: payload.length,
      browser: browser.version(),
      cores: cpus().length,
      threads: Math.max(1, Math.min(4, cpus().length - 1)),
      decode_ms: { browser: median(fine.decodeMs), python_1_thread: median(twin.wall_ms), python_1_thread_cpu: median(twin.cpu_ms) },
      tap_to_picture_ms: { cpu: median(cpuMs), wall: median(wallMs) },
      runs: RUNS,
      renderer_peak_mb: fine.peakMb,
      coarse,
      note: "decode_ms: wall time from the features' parts to pixels, in the page's worker and in Python; tap_to_picture_ms: the whole renderer process, from a tap in the history on; coarse: features that the phone's denoiser cleans before",
    }
    await writeFile(RESULT, `${JSON.stringify(result, null, 2)}\n`)
    console.log(result)
    expect(firstVisitBytes).toBeLessThanOrEqual(MOST_FIRST_VISIT_BYTES)
  } finally {
    await browser.close()
    proxy.stop()
    server.stop()
  }
})
