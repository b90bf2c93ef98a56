// Links and buttons marked data-dialog lead to a page with one form. Here the form opens in a dialog over this page.
import { fetchPage } from './page.js'

export function dialogs (enhance) {
  const dialog = document.getElementById('dialog')

  document.addEventListener('click', event => {
    const close = event.target.closest('dialog [data-close]')
    if (close) { event.preventDefault(); dialog.close(); return }
    const link = event.target.closest('a[data-dialog], button[data-dialog]')
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey) return
    event.preventDefault()
    open(addressOf(link))
  })

  async function open (url) {
    try {
      const { page, answer } = await fetchPage(url)
      const content = page.getElementById('dialog-content')
      if (!content || !answer.ok) { location.assign(url); return }
      const title = document.createElement('h2')
      title.id = 'dialog-title'
      title.textContent = page.querySelector('h1')?.textContent ?? ''
      dialog.replaceChildren(title, document.adoptNode(content))
      enhance(dialog)
      guard(dialog)
      dialog.showModal()
    } catch {
      location.assign(url)
    }
  }

  dialog.addEventListener('submit', event => {
    // A download leaves the page as it is, so the dialog has done its work.
    if (event.target.matches('[data-download]')) setTimeout(() => dialog.close(), 400)
  })
  dialog.addEventListener('close', () => dialog.replaceChildren())
  guard(document)
}

function addressOf (link) {
  if (link.matches('a')) return link.href
  const query = new URLSearchParams(new FormData(link.form))
  return link.formAction + '?' + query
}

/** Keeps a confirming button off until every typed confirmation matches. The server checks the same. */
function guard (root) {
  for (const button of root.querySelectorAll('[data-confirm]')) {
    const fields = [...button.form.querySelectorAll('[data-match]')]
    const check = () => { button.disabled = fields.some(field => field.value !== field.dataset.match) }
    for (const field of fields) field.addEventListener('input', check)
    check()
  }
}
