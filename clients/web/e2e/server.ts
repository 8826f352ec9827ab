import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createInterface } from 'node:readline'

const ROOT = new URL('../../../', import.meta.url)
const BIN = process.env['MEGEN_BIN'] ?? new URL('.venv/bin/', ROOT).pathname
const ENV = { ...process.env, OMP_NUM_THREADS: '1', OMP_WAIT_POLICY: 'PASSIVE' }

/** An edge server: the one at MEGEN_URL, or one that is started on a free port and stopped at the end. */
export async function startServer(options: readonly string[] = []): Promise<{ readonly url: URL; stop(): void }> {
  const given = process.env['MEGEN_URL']
  if (given && options.length === 0) return { url: new URL(given), stop: () => undefined }
  const process_ = spawn(`${BIN}megen`, ['serve', '--port', '0', ...options], { env: ENV, stdio: ['ignore', 'pipe', 'pipe'] })
  const url = await new Promise<URL>((resolve, reject) => {
    process_.on('error', reject)
    process_.on('exit', (code) => reject(new Error(`megen serve ended with ${code}`)))
    for (const stream of [process_.stdout, process_.stderr]) {
      createInterface(stream).on('line', (line) => {
        const address = /open (http:\S+)/.exec(line)?.[1]
        if (address) resolve(new URL(address))
      })
    }
  })
  return { url, stop: () => void process_.kill('SIGTERM') }
}

/** What a program of the Python library prints. */
export function python(program: 'megen' | 'python', args: readonly string[]): Promise<string> {
  const path = `${BIN}${program}`
  if (!existsSync(path)) throw new Error(`${path} is missing: make test sets it up, or name its folder in MEGEN_BIN`)
  return new Promise((resolve, reject) => {
    const child = spawn(path, args, { cwd: ROOT, env: { ...ENV, PYTHONPATH: ROOT.pathname }, stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.on('data', (data: Buffer) => (out += data.toString()))
    child.on('error', reject)
    child.on('close', (code) => (code === 0 ? resolve(out) : reject(new Error(`${program} ended with ${code}`))))
  })
}
