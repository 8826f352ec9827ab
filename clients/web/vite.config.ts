import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { defaultClientConditions, type Plugin } from 'vite'
import { defineConfig } from 'vitest/config'

/** The build's files and a hash of them, for the service worker; the runtime's WASM is kept by who loads it, with the receiver. */
function shell(): Plugin {
  return {
    name: 'shell',
    generateBundle(_, bundle) {
      const hash = createHash('sha256')
      const names: string[] = []
      const add = (name: string, content: string | Uint8Array) => {
        hash.update(name).update(content)
        names.push(`/${name}`)
      }
      const made = Object.values(bundle).sort((a, b) => (a.fileName < b.fileName ? -1 : 1))
      for (const file of made) {
        if (file.fileName === 'sw.js' || file.fileName.endsWith('.wasm')) continue
        const content = file.type === 'chunk' ? file.code : file.source
        if (file.fileName === 'index.html') hash.update(content)
        else add(file.fileName, content)
      }
      const publicFiles = readdirSync('public', { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile())
      for (const { parentPath, name } of publicFiles.sort((a, b) => (a.name < b.name ? -1 : 1))) {
        add(`${parentPath}/${name}`.replace(/^public\//, ''), readFileSync(`${parentPath}/${name}`))
      }
      const worker = bundle['sw.js']
      if (worker?.type !== 'chunk') throw new Error('the service worker was not built')
      worker.code = worker.code
        .replaceAll('SHELL_FILES', JSON.stringify(names))
        .replaceAll('SHELL_VERSION', JSON.stringify(hash.digest('hex').slice(0, 12)))
    },
  }
}

export default defineConfig({
  plugins: [shell()],
  resolve: { conditions: ['onnxruntime-web-use-extern-wasm', ...defaultClientConditions] },
  build: {
    outDir: '../../src/megen/assets/web',
    emptyOutDir: true,
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: 'index.html', sw: 'src/offline/sw.ts' },
      output: { entryFileNames: ({ name }) => (name === 'sw' ? 'sw.js' : 'assets/[name]-[hash].js') },
    },
  },
  worker: { format: 'es' },
  test: { include: ['tests/*.test.ts'], pool: 'forks', maxWorkers: 1 },
})
