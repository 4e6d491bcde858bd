/** Small parts that several pages have. */

import type { ShredReceipt } from 'drizzle-keystore'
import type { PropsWithChildren } from 'hono/jsx'

export interface FieldProps {
  readonly name: string
  readonly label: string
  readonly type?: string
  readonly value?: string | undefined
  readonly hint?: string
  readonly error?: string | undefined
  readonly autocomplete?: string
  readonly required?: boolean
  readonly minlength?: number
  readonly maxlength?: number
}

export function Field({
  name,
  label,
  type = 'text',
  value,
  hint,
  error,
  autocomplete = 'off',
  required = true,
  minlength,
  maxlength,
}: FieldProps) {
  const described = [hint && `${name}-hint`, error && `${name}-error`].filter(Boolean).join(' ')
  const isSecret = type === 'password'
  return (
    <div class="field">
      <label for={name}>{label}</label>
      <input
        id={name}
        name={name}
        type={type}
        value={value}
        autocomplete={autocomplete}
        required={required}
        minlength={minlength}
        maxlength={maxlength}
        aria-describedby={described || undefined}
        aria-invalid={error ? 'true' : undefined}
        spellcheck={isSecret || type === 'email' ? false : undefined}
        autocapitalize={isSecret || type === 'email' ? 'none' : undefined}
      />
      {hint && (
        <p class="hint" id={`${name}-hint`}>
          {hint}
        </p>
      )}
      {error && (
        <p class="error" id={`${name}-error`}>
          {error}
        </p>
      )}
    </div>
  )
}

/** Says what has happened; read out by screen readers. */
export function Notice({ kind = 'good', children }: PropsWithChildren<{ kind?: 'good' | 'bad' | 'plain' }>) {
  return (
    <div class={`notice ${kind}`} role={kind === 'bad' ? 'alert' : 'status'}>
      {children}
    </div>
  )
}

const absolute = new Intl.DateTimeFormat('en-GB', {
  dateStyle: 'medium',
  timeStyle: 'short',
  timeZone: 'UTC',
})
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' })
const UNITS = [
  ['year', 365 * 86_400],
  ['month', 30 * 86_400],
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
] as const

export const timeText = (time: Date) => `${absolute.format(time)} UTC`

export function agoText(time: Date, now = Date.now()): string {
  const seconds = Math.round((time.getTime() - now) / 1000)
  for (const [unit, length] of UNITS)
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit)
  return 'just now'
}

export function Time({ at }: { at: Date }) {
  return (
    <time datetime={at.toISOString()} title={timeText(at)}>
      {agoText(at)}
    </time>
  )
}

/** What an erasure does not reach. */
export function OlderBackups() {
  return (
    <p>
      In an older backup of the database it stays readable to whoever holds that backup together with the
      master key.
    </p>
  )
}

/** What a shred erased, and where the erased bytes may still be. */
export function Receipt({ receipt, forOperator = false }: { receipt: ShredReceipt; forOperator?: boolean }) {
  const erased =
    receipt.erased === 'file'
      ? 'No file of the live database has the key any more.'
      : 'Pending: nobody can query the key any more, but the files of the database may still hold its bytes until the operator finishes the erasure.'
  return (
    <dl class="receipt" id="receipt">
      <dt>Erased</dt>
      <dd>{timeText(receipt.at)}</dd>
      <dt>For</dt>
      <dd>
        <code>{receipt.userId}</code>
      </dd>
      <dt>Versions of the data key</dt>
      <dd>
        {receipt.versions.length === 0
          ? 'none: it was erased before, or never made'
          : receipt.versions.join(', ')}
      </dd>
      <dt>They were wrapped under</dt>
      <dd>
        {receipt.kekIds.length === 0
          ? '–'
          : receipt.kekIds.map((kekId) => <code class="block">{kekId ?? 'an unnamed master key'}</code>)}
      </dd>
      <dt>Where</dt>
      <dd>
        {erased}
        {forOperator && receipt.pending !== null && (
          <>
            {' '}
            To finish it, choose “Finish erasures” on the <a href="/operator#work">operator’s page</a>. The
            store says: {receipt.pending}
          </>
        )}
      </dd>
      <dt>Final</dt>
      <dd>once all backups from before have expired, or the master keys above are destroyed.</dd>
    </dl>
  )
}
