import { defineConfig } from 'vitest/config'

export default defineConfig({
  build: { lib: { entry: 'src/codec/index.ts', formats: ['es'], fileName: 'codec' } },
  test: { include: ['tests/*.test.ts'], pool: 'forks', maxWorkers: 1 },
})
