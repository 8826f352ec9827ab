// Writes the PNG icons from icon.svg: `node scripts/icons.mjs`. Needs a Chromium, at CHROMIUM or /usr/bin/chromium.
import { readFile } from 'node:fs/promises'
import { launch } from './chromium.mjs'

const folder = new URL('../public/icons/', import.meta.url)
const svg = await readFile(new URL('icon.svg', folder), 'utf8')
const browser = await launch()
for (const px of [180, 192, 512]) {
  const page = await browser.newPage({ viewport: { width: px, height: px } })
  await page.setContent(`<style>body{margin:0}svg{display:block;width:100vw;height:100vh}</style>${svg}`)
  await page.screenshot({ path: new URL(`icon-${px}.png`, folder).pathname })
}
await browser.close()
