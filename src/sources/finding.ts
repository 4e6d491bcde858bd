/** What a sweep finds of a column: what its values look like, and, in a dry run, what will refuse new values and what they will set off. */
import { describeDriverError } from '../drivers/driver-error.js'
import { printable } from '../errors.js'

/**
 * - `tooNarrow`: the column's type is too short for tokens
 * - `check`: a CHECK constraint refuses them
 * - `generated`: the column is generated, so that nothing can be written to it; as a warning: another column is, and may be made of it
 * - `trigger`: a trigger refuses or alters what is written; as a warning: one runs at each write
 * - `denied`: privileges, a policy of row-level security, or a database that is read-only
 * - `wrongType`: the column's type holds no text
 * - `refused`: anything else refuses them
 * - `ciphertext`: a warning: values look like ciphertext of another library, which no reader was given for
 */
export type SourceFindingKind =
  | 'tooNarrow'
  | 'check'
  | 'generated'
  | 'trigger'
  | 'denied'
  | 'wrongType'
  | 'refused'
  | 'ciphertext'

/** What a sweep would run into, or leave behind. */
export interface SourceFinding {
  /** With an error, the sweep that is not a dry run ends, or leaves the rows that are refused. */
  readonly severity: 'error' | 'warning'
  readonly kind: SourceFindingKind
  readonly column: string
  /** Quotes no value. */
  readonly reason: string
}

/** Why a database refuses a change. */
export interface Refusal {
  readonly kind: SourceFindingKind
  readonly reason: string
}

/** Why a change was undone: the altered token would be lost, and with it what it holds. */
export const ALTERED_BY_TRIGGER = 'a trigger alters what is written to it, so nothing was'

export const ALTERED: Refusal = { kind: 'trigger', reason: ALTERED_BY_TRIGGER }

const KINDS: readonly (readonly [code: RegExp, kind: SourceFindingKind, text: string])[] = [
  [/^22001$/, 'tooNarrow', 'it is too narrow for tokens: make it of type text first'],
  [
    /^(23514|SQLITE_CONSTRAINT_CHECK)$/,
    'check',
    'a CHECK constraint refuses tokens: change or drop it first',
  ],
  [/^428C9$/, 'generated', 'it is a generated column: make it an ordinary one first'],
  [/^(P0001|SQLITE_CONSTRAINT_TRIGGER)$/, 'trigger', 'a trigger refuses the new value'],
  [
    /^(42501|25006|SQLITE_(READONLY|AUTH|PERM).*)$/,
    'denied',
    'this connection may not write it: privileges, a policy of row-level security, or a read-only database',
  ],
]
/** Classes of SQLSTATE, and codes of SQLite, that say that a statement was refused and not that the database is out of reach. */
const REFUSED =
  /^((22|23|25|38|39|42|44|0A|P0)...|SQLITE_(CONSTRAINT|READONLY|AUTH|PERM|MISMATCH|TOOBIG|ERROR)\w*)$/

/** @returns null for an error that says nothing about the change: an outage, a lock */
export function refusalOf(error: unknown): Refusal | null {
  const { code, description } = describeDriverError(error)
  if (code === null || !REFUSED.test(code)) return null
  // SQLite has no code for it.
  if (/cannot UPDATE generated column/.test(description))
    return { kind: 'generated', reason: KINDS[2]?.[2] ?? '' }
  const [, kind, text] = KINDS.find(([pattern]) => pattern.test(code)) ?? [
    code,
    'refused',
    'the database refuses the new value',
  ]
  return { kind: kind as SourceFindingKind, reason: `${text} (${printable(description)})` }
}
