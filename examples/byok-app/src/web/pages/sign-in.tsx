/** Pages for who is not signed in. */
import type { PropsWithChildren } from 'hono/jsx'
import { MIN_PASSWORD_LENGTH } from '../../auth.js'
import { Form, Layout } from './layout.js'
import { Field, Notice } from './parts.js'

interface Props {
  readonly oauthName: string | null
  readonly name?: string | undefined
  readonly email?: string | undefined
  readonly error?: string | undefined
  readonly notice?: string | undefined
}

function Welcome({ title, children }: PropsWithChildren<{ title: string }>) {
  return (
    <Layout title={title}>
      <div class="welcome">
        <section class="pitch" aria-label="About Keyring">
          <p class="claim">Your API keys, under a key of your own.</p>
          <ul>
            <li>Each person’s keys are encrypted under a key that is theirs alone.</li>
            <li>Once pasted, a key is never shown again: only its last four characters.</li>
            <li>Delete your account, and your key is erased. Nothing opens without it.</li>
          </ul>
        </section>
        <section class="card">
          <h1>{title}</h1>
          {children}
        </section>
      </div>
    </Layout>
  )
}

function WithOAuth({ name }: { name: string | null }) {
  if (name === null) return null
  return (
    <>
      <p class="or">
        <span>or</span>
      </p>
      <Form action="/sign-in/oauth">
        <button class="secondary full" type="submit">
          Continue with {name}
        </button>
      </Form>
    </>
  )
}

export function SignInPage({ oauthName, email, error, notice }: Props) {
  return (
    <Welcome title="Sign in">
      {error && <Notice kind="bad">{error}</Notice>}
      {notice && <Notice>{notice}</Notice>}
      <Form action="/sign-in">
        <Field name="email" label="E-mail address" type="email" value={email} autocomplete="username" />
        <Field name="password" label="Password" type="password" autocomplete="current-password" />
        <button class="full" type="submit">
          Sign in
        </button>
      </Form>
      <WithOAuth name={oauthName} />
      <p class="links">
        <a href="/sign-up">Create an account</a>
        <a href="/forgot-password">Forgot password?</a>
      </p>
    </Welcome>
  )
}

export function SignUpPage({ oauthName, name, email, error }: Props) {
  return (
    <Welcome title="Create an account">
      {error && <Notice kind="bad">{error}</Notice>}
      <Form action="/sign-up">
        <Field name="name" label="Name" value={name} autocomplete="name" maxlength={80} />
        <Field name="email" label="E-mail address" type="email" value={email} autocomplete="username" />
        <NewPassword />
        <button class="full" type="submit">
          Create account
        </button>
      </Form>
      <WithOAuth name={oauthName} />
      <p class="links">
        <a href="/sign-in">Sign in instead</a>
      </p>
    </Welcome>
  )
}

function NewPassword() {
  return (
    <Field
      name="password"
      label="Password"
      type="password"
      autocomplete="new-password"
      minlength={MIN_PASSWORD_LENGTH}
      maxlength={128}
      hint={`At least ${MIN_PASSWORD_LENGTH} characters. A few words are easier to remember.`}
    />
  )
}

export function ForgotPage({ error }: { error?: string }) {
  return (
    <Welcome title="Forgot your password?">
      {error && <Notice kind="bad">{error}</Notice>}
      <p>Say your address, and you get a mail with a link to choose a new one.</p>
      <Form action="/forgot-password">
        <Field name="email" label="E-mail address" type="email" autocomplete="username" />
        <button class="full" type="submit">
          Send the link
        </button>
      </Form>
      <p class="links">
        <a href="/sign-in">Back to sign in</a>
      </p>
    </Welcome>
  )
}

export function NewPasswordPage({ token, error }: { token: string; error?: string }) {
  return (
    <Welcome title="Choose a new password">
      {error && <Notice kind="bad">{error}</Notice>}
      <Form action="/new-password">
        <input type="hidden" name="token" value={token} />
        <NewPassword />
        <button class="full" type="submit">
          Change password
        </button>
      </Form>
    </Welcome>
  )
}

export function MessagePage({ title, text }: { title: string; text: string }) {
  return (
    <Welcome title={title}>
      <p>{text}</p>
      <p class="links">
        <a href="/sign-in">To sign in</a>
      </p>
    </Welcome>
  )
}

export function ContinuePage({ url, name }: { url: string; name: string }) {
  return (
    <Layout title={`Continue with ${name}`} head={<meta http-equiv="refresh" content={`0; url=${url}`} />}>
      <section class="card narrow">
        <h1>Continue with {name}</h1>
        <p>
          <a class="button" href={url}>
            Continue
          </a>
        </p>
      </section>
    </Layout>
  )
}
