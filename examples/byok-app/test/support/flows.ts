/** What people do, in steps of a browser. */
import { randomBytes } from 'node:crypto'
import type { Page } from 'playwright-core'
import type { TestApplication } from './application.js'

export const PASSWORD = `correct horse battery ${randomBytes(8).toString('hex')}`

export async function signUp(page: Page, name: string, email: string): Promise<void> {
  await page.goto('/sign-up')
  await page.getByLabel('Name').fill(name)
  await page.getByLabel('E-mail address').fill(email)
  await page.getByLabel('Password').fill(PASSWORD)
  await page.getByRole('button', { name: 'Create account' }).click()
  await page.getByText('Welcome. Add your first key.').waitFor()
}

/** Who is signed in becomes the operator: their id goes into the configuration. */
export async function becomeOperator(page: Page, app: TestApplication): Promise<void> {
  await page.goto('/account')
  await app.restart({ OPERATOR_USER_ID: await page.locator('dd code').innerText() })
}

export async function signIn(page: Page, email: string, password: string): Promise<void> {
  await page.getByLabel('E-mail address').fill(email)
  await page.getByLabel('Password').fill(password)
  await page.getByRole('button', { name: 'Sign in' }).click()
}

export async function addKey(page: Page, provider: string, label: string, apiKey: string): Promise<void> {
  await page.getByLabel('Provider').selectOption(provider)
  await page.getByLabel('Name').fill(label)
  await page.getByLabel('API key').fill(apiKey)
  await page.getByRole('button', { name: 'Add key' }).click()
}

export async function deleteAccount(page: Page, typed: string, password?: string): Promise<void> {
  await page.goto('/account')
  await page.getByRole('link', { name: 'Delete account' }).click()
  await page.getByLabel('To confirm, type').fill(typed)
  if (password !== undefined) await page.getByLabel('Your password').fill(password)
  await page.getByRole('button', { name: 'Delete account' }).click()
}

/** The text of the receipt on the page. */
export async function receiptOf(page: Page): Promise<string> {
  return page.locator('#receipt').innerText()
}

/** The text of what has the focus. */
export const focused = (page: Page) => page.evaluate<string>('document.activeElement?.textContent?.trim()')
