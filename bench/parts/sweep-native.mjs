// The sweep with the native core.
import { addon } from '../cores.mjs'
import { measureWith } from './sweep.mjs'

export { about } from './sweep.mjs'

export const title = 'Sweep, native'

export function measure(options) {
  if (addon !== null) return measureWith('native', options)
  options.progress('the native core is not built: node scripts/build-native.mjs')
  return []
}
