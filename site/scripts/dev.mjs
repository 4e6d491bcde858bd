// Serves the site, and follows changes of docs/.
//
//   node scripts/dev.mjs
import { watch } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { createServer } from 'vitepress'
import { sources, stage } from './stage.mjs'

stage()
await import('./api.mjs')
const server = await createServer(fileURLToPath(new URL('..', import.meta.url)))
await server.listen()
server.printUrls()
for (const folder of sources)
  watch(folder, (_, name) => {
    if (/\.(md|svg)$/.test(name ?? '')) stage()
  })
