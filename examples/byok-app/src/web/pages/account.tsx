/** A person's account: what is stored, and its end. */
import type { ShredReceipt } from 'drizzle-keystore'
import type { SignedIn } from '../services.js'
import { Form, Layout } from './layout.js'
import { Field, Notice, OlderBackups, Receipt } from './parts.js'

export function AccountPage({ signedIn, notice }: { signedIn: SignedIn; notice?: string | undefined }) {
  const { userId, name, email, emailVerified, csrfToken } = signedIn
  return (
    <Layout title="Account" signedIn={signedIn} current="/account">
      <h1>Account</h1>
      {notice && <Notice>{notice}</Notice>}
      <section class="card" aria-labelledby="you">
        <h2 id="you">You</h2>
        <dl>
          <dt>Name</dt>
          <dd>{name}</dd>
          <dt>E-mail address</dt>
          <dd>
            {email}{' '}
            <span class={`badge ${emailVerified ? 'good' : 'warn'}`}>
              {emailVerified ? 'Confirmed' : 'Not confirmed'}
            </span>
          </dd>
          <dt>Id</dt>
          <dd>
            <code>{userId}</code>
          </dd>
        </dl>
        {!emailVerified && (
          <Form action="/account/confirm" csrf={csrfToken}>
            <button class="secondary" type="submit">
              Send the mail to confirm it
            </button>
          </Form>
        )}
      </section>
      <section class="card" aria-labelledby="data">
        <h2 id="data">Your data</h2>
        <p>Everything that is stored about you, as a JSON file. Your secrets are not in it.</p>
        <p>
          <a class="button secondary" href="/account/export" download>
            Download your data
          </a>
        </p>
      </section>
      <section class="card danger" aria-labelledby="end">
        <h2 id="end">Delete your account</h2>
        <p>
          Your data key is erased: what was encrypted for you can no longer be read. Nobody can undo this.
        </p>
        <OlderBackups />
        <p>
          <a class="button destructive" href="/account/delete">
            Delete account…
          </a>
        </p>
      </section>
    </Layout>
  )
}

export function DeleteAccountPage({
  signedIn,
  withPassword,
  error,
}: {
  signedIn: SignedIn
  withPassword: boolean
  error?: string | undefined
}) {
  return (
    <Layout title="Delete your account" signedIn={signedIn} current="/account">
      <p class="back">
        <a href="/account">Account</a>
      </p>
      <section class="card danger narrow">
        <h1>Delete your account</h1>
        {error && <Notice kind="bad">{error}</Notice>}
        <p>Revoke your API keys at their providers too: deleting them here does not.</p>
        <Form action="/account/delete" csrf={signedIn.csrfToken}>
          <Field name="email" label={`To confirm, type ${signedIn.email}`} type="email" />
          {withPassword && (
            <Field name="password" label="Your password" type="password" autocomplete="current-password" />
          )}
          <button class="destructive" type="submit">
            Delete account and erase my key
          </button>
        </Form>
      </section>
    </Layout>
  )
}

export function DeletedPage({ receipt }: { receipt: ShredReceipt | null }) {
  return (
    <Layout title="Your account was deleted">
      <section class="card">
        <h1>Your account was deleted</h1>
        <p>This is the receipt. Keep it if you like: it has no secret in it, and it is shown only now.</p>
        {receipt !== null && <Receipt receipt={receipt} />}
        <p>
          <a href="/sign-up">To the start</a>
        </p>
      </section>
    </Layout>
  )
}
