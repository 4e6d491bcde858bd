/** The frame of all pages. */

import { raw } from 'hono/html'
import type { Child, PropsWithChildren } from 'hono/jsx'
import type { SignedIn } from '../services.js'

export interface LayoutProps {
  readonly title: string
  readonly signedIn?: SignedIn | null
  /** The path of the navigation's current page. */
  readonly current?: string
  readonly head?: Child
  readonly wide?: boolean
}

export function Layout({ title, signedIn, current, head, wide, children }: PropsWithChildren<LayoutProps>) {
  return (
    <>
      {raw('<!doctype html>')}
      <html lang="en">
        <head>
          <meta charset="utf-8" />
          <meta name="viewport" content="width=device-width, initial-scale=1" />
          <meta name="color-scheme" content="light dark" />
          <title>{`${title} · Keyring`}</title>
          <link rel="icon" href="/static/icon.svg" type="image/svg+xml" />
          <link rel="stylesheet" href="/static/style.css" />
          {head}
        </head>
        <body>
          <a class="skip" href="#main">
            Skip to the content
          </a>
          <header class="top">
            <div class="bar">
              <a class="brand" href="/">
                <Logo />
                Keyring
              </a>
              {signedIn && <Navigation signedIn={signedIn} current={current} />}
            </div>
          </header>
          <main id="main" tabindex={-1} class={wide ? 'wide' : undefined}>
            {children}
          </main>
        </body>
      </html>
    </>
  )
}

function Navigation({ signedIn, current }: { signedIn: SignedIn; current: string | undefined }) {
  const links = [
    ['/keys', 'Keys'],
    ['/account', 'Account'],
    ...(signedIn.isOperator ? [['/operator', 'Operator']] : []),
  ] as const
  return (
    <nav aria-label="Main">
      {links.map(([href, text]) => (
        <a href={href} aria-current={href === current ? 'page' : undefined}>
          {text}
        </a>
      ))}
      <Form action="/sign-out" csrf={signedIn.csrfToken}>
        <button class="quiet" type="submit">
          Sign out
        </button>
      </Form>
    </nav>
  )
}

function Logo() {
  return (
    <svg class="logo" viewBox="0 0 24 24" aria-hidden="true">
      <circle cx="8" cy="12" r="5" />
      <path d="M13 12h9M18 12v4M22 12v3" />
    </svg>
  )
}

/** A form that changes something. @param csrf the session's token; absent where nobody is signed in yet */
export function Form(
  props: PropsWithChildren<{ action: string; csrf?: string | undefined; class?: string | undefined }>,
) {
  return (
    <form method="post" action={props.action} class={props.class}>
      {props.csrf !== undefined && <input type="hidden" name="csrf" value={props.csrf} />}
      {props.children}
    </form>
  )
}
