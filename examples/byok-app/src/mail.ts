/** Mails: through an SMTP server, or into a folder, for development and tests. */
import { randomUUID } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createTransport } from 'nodemailer'
import type { Config } from './config.js'
import { log, logError } from './log.js'

export interface Mail {
  readonly to: string
  readonly subject: string
  readonly text: string
}

export interface Mailer {
  /** Whether mails reach their readers: then addresses can be confirmed before anybody signs in. */
  readonly delivers: boolean
  /** Never rejects: a server that is down must not tell who has an account. */
  send(mail: Mail): Promise<void>
}

export function mailer({ mailUrl, mailFrom }: Pick<Config, 'mailUrl' | 'mailFrom'>): Mailer {
  if (/^smtps?:\/\//.test(mailUrl)) {
    const transport = createTransport(mailUrl, { from: mailFrom })
    return {
      delivers: true,
      async send(mail) {
        await transport.sendMail(mail).catch((error) => logError('mail.failed', error))
      },
    }
  }
  return {
    delivers: false,
    async send({ to, subject, text }) {
      mkdirSync(mailUrl, { recursive: true, mode: 0o700 })
      const file = join(mailUrl, `${Date.now()}-${randomUUID()}.txt`)
      writeFileSync(file, `From: ${mailFrom}\nTo: ${to}\nSubject: ${subject}\n\n${text}\n`, { mode: 0o600 })
      log('mail.written', { file })
    },
  }
}
