/** What a KEK id says about the rows that carry it. */
import type { Format } from '../format/formats.js'

/** The beginning of the KEK ids that rows get when this library wraps them in format v2. */
export const LOCAL_V2_PREFIX = 'local-v2:'

/** The wrap format of the rows with a KEK id. Null is the id of the Python reference's rows. */
export function formatOfKekId(kekId: string | null): Format {
  return kekId === null || kekId.startsWith(LOCAL_V2_PREFIX) ? 'v2' : 'v3'
}
