// Writes docs/page.jpg, the page on a phone, from a running server: `npm run screens http://127.0.0.1:8000/`.
// Before, while the picture grows, after, and in the dark. Needs a Chromium, at CHROMIUM or /usr/bin/chromium.
import { launch } from './chromium.mjs'

const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 1, isMobile: true, hasTouch: true }
const PROMPT = 'a lighthouse at sunset, snowy mountains, a dragon'
const SEED = '3'
const GAP_PX = 20

const url = process.argv[2]
if (!url) throw new Error('name the server: npm run screens http://127.0.0.1:8000/')
const browser = await launch()
const shots = []

async function draw(colorScheme, prompt) {
  const context = await browser.newContext({ ...PHONE, colorScheme })
  const page = await context.newPage()
  const shoot = async () => shots.push((await page.screenshot()).toString('base64'))
  await page.goto(url)
  await page.waitForFunction(() => localStorage.getItem('megen.decode_s') !== null, null, { timeout: 120_000 })
  if (colorScheme === 'light') await shoot()
  await page.fill('#prompt', prompt)
  await page.click('.options summary')
  await page.check('input[name=steps][value="4"]')
  await page.fill('#seed', SEED)
  await page.click('.options summary')
  await page.evaluate(() => scrollTo(0, 0))
  await page.click('#draw')
  if (colorScheme === 'light') {
    await page.waitForSelector('#frame[data-state=rough]')
    await shoot()
  }
  await page.waitForSelector('#frame[data-state=whole]', { timeout: 120_000 })
  await page.waitForSelector('#draw:enabled', { timeout: 30_000 })
  await page.evaluate(() => {
    document.activeElement?.blur()
    scrollTo(0, 0)
  })
  await shoot()
  await context.close()
}

await draw('light', PROMPT)
await draw('dark', PROMPT.replace(', snowy mountains', ''))
const { width, height } = PHONE.viewport
const sheet = await browser.newPage({ viewport: { width: shots.length * (width + GAP_PX) - GAP_PX, height } })
const images = shots.map((png) => `<img src="data:image/png;base64,${png}">`).join('')
await sheet.setContent(`<style>body{margin:0;background:#777;display:flex;gap:${GAP_PX}px}</style>${images}`)
await sheet.screenshot({ path: new URL('../../../docs/page.jpg', import.meta.url).pathname, quality: 85, type: 'jpeg' })
await browser.close()
