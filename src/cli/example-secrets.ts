/** What `keystore quickstart` encrypts when no file is given: the kinds of secrets that applications hold, none of them real. */

export type ExampleSecret = Record<'user' | 'name' | 'secret', string>

/** As long as a real one, and so plainly made up that no scanner of secrets takes it for one. */
function fake(text: string, length: number): string {
  return `${text}Example`.repeat(length).slice(0, length)
}

const SECRETS: readonly (readonly [user: string, name: string, secret: string])[] = [
  ['alice@example.com', 'openai', `sk-proj-${fake('Alice', 48)}`],
  ['alice@example.com', 'anthropic', `sk-ant-api03-${fake('Alice', 64)}`],
  [
    'alice@example.com',
    'google-oauth',
    JSON.stringify({
      access_token: `ya29.${fake('Access', 80)}`,
      refresh_token: `1//${fake('Refresh', 60)}`,
      scope: 'https://www.googleapis.com/auth/calendar.readonly',
      expiry: '2026-12-01T09:30:00Z',
    }),
  ],
  ['alice@example.com', 'totp-seed', fake('ALICE', 32)],
  ['bob', 'github', `ghp_${fake('Bob', 36)}`],
  ['bob', 'openai', `sk-proj-${fake('Bob', 48)}`],
  [
    'bob',
    'sftp-backup',
    JSON.stringify({ host: 'sftp.example.com', port: 22, username: 'bob', password: 'kR7"v\\9!æø' }),
  ],
  ['discord:827364827364827364', 'discord-bot', `${fake('Bot', 24)}.${fake('B', 6)}.${fake('Token', 38)}`],
  ['discord:827364827364827364', 'webhook-secret', fake('decade', 40)],
  ['chloé.dübois', 'stripe', `sk_test_${fake('Stripe', 48)}`],
  ['chloé.dübois', 'mailgun', `key-${fake('Mail', 32)}`],
  ['chloé.dübois', 'smtp-password', 'pâté & crème brûlée, 12 œufs'],
  ['田中-太郎', 'line-channel', `${fake('Line', 43)}=`],
  ['田中-太郎', 'slack', `xoxb-${fake('Slack', 50)}`],
  [
    'tenant-42/service',
    'aws',
    JSON.stringify({ aws_access_key_id: fake('AKIA', 20), aws_secret_access_key: fake('Aws', 40) }),
  ],
  ['tenant-42/service', 'postgres-url', `postgres://app:${fake('App', 24)}@db.internal.example:5432/app`],
  ['tenant-42/service', 'webhook-signing', `whsec_${fake('Hook', 32)}`],
  ["o'brien", 'telegram-bot', `4735503768:${fake('Telegram', 35)}`],
  [
    "o'brien",
    'ssh-key',
    `-----BEGIN EXAMPLE KEY-----\n${fake('Line1', 70)}\n${fake('Line2', 70)}\n-----END EXAMPLE KEY-----\n`,
  ],
  [
    'frida',
    'microsoft-oauth',
    JSON.stringify({ access_token: `eyJ${fake('Jwt', 160)}`, refresh_token: `0.${fake('Refresh', 70)}` }),
  ],
]

export const EXAMPLE_SECRETS: readonly ExampleSecret[] = SECRETS.map(([user, name, secret]) => ({
  user,
  name,
  secret,
}))
