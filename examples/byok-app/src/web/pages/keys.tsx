/** A person's keys. */
import type { ListedKey } from '../../keys.js'
import type { CheckResult, Provider } from '../../providers.js'
import type { SignedIn } from '../services.js'
import { Form, Layout } from './layout.js'
import { Field, Notice, Time, timeText } from './parts.js'

export interface KeysProps {
  readonly signedIn: SignedIn
  readonly keys: readonly ListedKey[]
  readonly providers: readonly Provider[]
  readonly notice?: { readonly kind: 'good' | 'bad'; readonly text: string } | null
  /** What was sent, without the key itself, and what is wrong with it. */
  readonly form?: { readonly provider?: string | undefined; readonly label?: string | undefined }
  readonly errors?: Readonly<Record<string, string | undefined>>
}

export function KeysPage({ signedIn, keys, providers, notice, form = {}, errors = {} }: KeysProps) {
  return (
    <Layout title="Your API keys" signedIn={signedIn} current="/keys">
      <h1>Your API keys</h1>
      {notice && <Notice kind={notice.kind}>{notice.text}</Notice>}
      {keys.length === 0 ? (
        <p class="empty">You have no keys here yet. Add the first one below.</p>
      ) : (
        <ul class="keys" aria-label="Your keys">
          {keys.map((key) => (
            <KeyCard key={key.id} listed={key} provider={nameOf(providers, key)} csrf={signedIn.csrfToken} />
          ))}
        </ul>
      )}
      <section class="card" aria-labelledby="add">
        <h2 id="add">Add a key</h2>
        <Form action="/keys" csrf={signedIn.csrfToken} class="add">
          <div class="field">
            <label for="provider">Provider</label>
            <select id="provider" name="provider" aria-invalid={errors.provider ? 'true' : undefined}>
              {providers.map(({ id, name }) => (
                <option value={id} selected={form.provider === id}>
                  {name}
                </option>
              ))}
            </select>
            {errors.provider && <p class="error">{errors.provider}</p>}
          </div>
          <Field
            name="label"
            label="Name"
            value={form.label}
            error={errors.label}
            maxlength={80}
            hint="For you, such as “Side project”. Encrypted too."
          />
          <Field
            name="apiKey"
            label="API key"
            type="password"
            error={errors.apiKey}
            maxlength={512}
            hint="It is encrypted at once, and never shown again."
          />
          <button type="submit">Add key</button>
        </Form>
      </section>
    </Layout>
  )
}

const nameOf = (providers: readonly Provider[], { provider }: ListedKey) =>
  providers.find(({ id }) => id === provider)?.name ?? provider

function KeyCard({ listed, provider, csrf }: { listed: ListedKey; provider: string; csrf: string }) {
  const label = listed.label ?? 'Unreadable key'
  return (
    <li class="key">
      <div class="what">
        <h2>{label}</h2>
        <p class="provider">{provider}</p>
      </div>
      <Masked lastFour={listed.lastFour} />
      <p class="used">
        <Result result={listed.lastResult} />
        <span>
          {listed.lastUsedAt === null ? (
            'Never used'
          ) : (
            <>
              Last used <Time at={listed.lastUsedAt} />
            </>
          )}
        </span>
      </p>
      <div class="actions">
        <Form action={`/keys/${listed.id}/check`} csrf={csrf}>
          <button
            class="secondary"
            type="submit"
            aria-label={`Test ${label}`}
            disabled={listed.label === null}
          >
            Test
          </button>
        </Form>
        <a class="button secondary" href={`/keys/${listed.id}`} aria-label={`Manage ${label}`}>
          Manage
        </a>
      </div>
    </li>
  )
}

function Masked({ lastFour }: { lastFour: string | null }) {
  if (lastFour === null)
    return <p class="masked error">It cannot be read. Delete it, and add the key again.</p>
  return (
    <p class="masked">
      <span aria-hidden="true">•••• •••• •••• </span>
      <span class="sr">A key that ends in </span>
      <code>{lastFour}</code>
    </p>
  )
}

const RESULTS: Readonly<Record<CheckResult, readonly [kind: string, text: string]>> = {
  works: ['good', 'Works'],
  refused: ['bad', 'Refused'],
  limited: ['warn', 'Rate limited'],
  unreachable: ['warn', 'No answer'],
  unclear: ['warn', 'Unclear'],
}

function Result({ result }: { result: CheckResult | null }) {
  if (result === null) return <span class="badge">Not tested</span>
  const [kind, text] = RESULTS[result]
  return <span class={`badge ${kind}`}>{text}</span>
}

export interface KeyProps {
  readonly signedIn: SignedIn
  readonly listed: ListedKey
  readonly provider: Provider | null
  readonly error?: string | undefined
}

export function KeyPage({ signedIn, listed, provider, error }: KeyProps) {
  const { id, label, lastFour, createdAt, replacedAt, lastUsedAt, lastResult } = listed
  return (
    <Layout title={label ?? 'Unreadable key'} signedIn={signedIn} current="/keys">
      <p class="back">
        <a href="/keys">Your API keys</a>
      </p>
      <h1>{label ?? 'Unreadable key'}</h1>
      <section class="card" aria-label="About this key">
        <dl>
          <dt>Provider</dt>
          <dd>{provider?.name ?? listed.provider}</dd>
          <dt>Key</dt>
          <dd>
            <Masked lastFour={lastFour} />
          </dd>
          <dt>Added</dt>
          <dd>{timeText(createdAt)}</dd>
          {replacedAt !== null && (
            <>
              <dt>Replaced</dt>
              <dd>{timeText(replacedAt)}</dd>
            </>
          )}
          <dt>Last used</dt>
          <dd>{lastUsedAt === null ? 'Never' : timeText(lastUsedAt)}</dd>
          <dt>Last test</dt>
          <dd>
            <Result result={lastResult} />
          </dd>
        </dl>
      </section>
      <section class="card" aria-labelledby="replace">
        <h2 id="replace">Replace</h2>
        <p>
          Make a new key
          {provider && (
            <>
              {' '}
              in the <a href={provider.console}>console of {provider.name}</a>
            </>
          )}
          , and paste it here. The old one is overwritten.
        </p>
        <Form action={`/keys/${id}/replace`} csrf={signedIn.csrfToken}>
          <Field
            name="apiKey"
            label="New API key"
            type="password"
            error={error}
            maxlength={512}
            hint={provider ? `It looks like ${provider.example}` : ''}
          />
          <button type="submit">Replace key</button>
        </Form>
      </section>
      <section class="card danger" aria-labelledby="delete">
        <h2 id="delete">Delete</h2>
        <p>It is deleted here. The provider goes on to take it until you revoke it there.</p>
        <Form action={`/keys/${id}/delete`} csrf={signedIn.csrfToken}>
          <button class="destructive" type="submit">
            Delete key
          </button>
        </Form>
      </section>
    </Layout>
  )
}
