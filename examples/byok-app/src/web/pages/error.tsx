/** The page for what went wrong. */

import type { SignedIn } from '../services.js'
import { Layout } from './layout.js'

export function ErrorPage({
  title,
  text,
  signedIn = null,
}: {
  title: string
  text: string
  signedIn?: SignedIn | null
}) {
  return (
    <Layout title={title} signedIn={signedIn}>
      <section class="card narrow">
        <h1>{title}</h1>
        <p>{text}</p>
        <p>
          <a href="/">Back to the start</a>
        </p>
      </section>
    </Layout>
  )
}
