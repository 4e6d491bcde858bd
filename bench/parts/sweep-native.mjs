// The sweep with the native core, which run.mjs turns on for parts of such a name.
export { about, measure } from './sweep.mjs'

export const title = 'Sweep, native'
