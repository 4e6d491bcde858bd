// Builds the site into .vitepress/dist: stages the pages, makes the API reference, builds, and writes what assistants read.
//
//   node scripts/build.mjs
import { rmSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { build } from 'vitepress'
import { stage } from './stage.mjs'

const site = fileURLToPath(new URL('..', import.meta.url))
rmSync(new URL('../pages', import.meta.url), { recursive: true, force: true })
stage()
await import('./api.mjs')
await build(site)
await import('./llms.mjs')
