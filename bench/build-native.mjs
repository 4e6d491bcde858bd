// Builds the native core with its loop, for the rows that have it. Where there is no compiler, the bench goes on without these rows.
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const script = fileURLToPath(new URL('../scripts/build-native.mjs', import.meta.url))
const { status } = spawnSync(process.execPath, [script, '--limit'], { stdio: 'inherit' })
if (status !== 0) console.error('The native core could not be built: its rows are left out.')
