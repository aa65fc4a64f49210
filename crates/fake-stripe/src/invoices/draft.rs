//! What an invoice says.

use serde_json::{Value, json};

use crate::state::{State, int, text, without};

/// What invoices have at Stripe, and nothing in here.
const NOTHING: &[&str] = &[
    "account_tax_ids",
    "application",
    "automatically_finalizes_at",
    "custom_fields",
    "customer_account",
    "default_payment_method",
    "default_source",
    "description",
    "effective_at",
    "ending_balance",
    "footer",
    "from_invoice",
    "hosted_invoice_url",
    "invoice_pdf",
    "last_finalization_error",
    "latest_revision",
    "next_payment_attempt",
    "on_behalf_of",
    "receipt_number",
    "rendering",
    "shipping_cost",
    "shipping_details",
    "statement_descriptor",
    "webhooks_delivered_at",
];

/// An invoice for the period that the items are in. It is stored when it is settled.
pub(crate) fn draft(state: &mut State, subscription: &Value, reason: &str, at: i64, free: bool) -> Value {
    let id = state.id("in");
    let items = subscription["items"]["data"].as_array().cloned().unwrap_or_default();
    let lines: Vec<Value> = items.iter().map(|item| line(state, &id, item, free)).collect();
    let total: i64 = lines.iter().map(|line| int(line, "amount")).sum();
    let customer = state.find("cus", text(subscription, "customer")).cloned().unwrap_or_default();
    let start = items.first().map_or(at, |item| int(item, "current_period_start"));
    let number = format!("{}-{}", text(&customer, "invoice_prefix"), &id[id.len() - 4..]);
    let mut new = json!({
        "id": id,
        "object": "invoice",
        "account_country": "US",
        "account_name": "Fake",
        "amount_due": total,
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_remaining": total,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": false,
        "auto_advance": true,
        "automatic_tax": {
            "disabled_reason": null, "enabled": false, "liability": null, "provider": null, "status": null,
        },
        "billing_reason": reason,
        "collection_method": subscription["collection_method"],
        "created": at,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "customer_address": customer["address"],
        "customer_email": customer["email"],
        "customer_name": customer["name"],
        "customer_phone": customer["phone"],
        "customer_shipping": customer["shipping"],
        "customer_tax_exempt": "none",
        "customer_tax_ids": [],
        "default_tax_rates": [],
        "discounts": [],
        "due_date": subscription["days_until_due"].as_i64().map(|days| at + days * 86_400),
        "issuer": {"type": "self"},
        "lines": {
            "object": "list", "data": lines, "has_more": false, "url": format!("/v1/invoices/{id}/lines"),
        },
        "livemode": false,
        "metadata": {},
        "number": number,
        "parent": {
            "quote_details": null,
            "subscription_details": {"metadata": subscription["metadata"], "subscription": subscription["id"]},
            "type": "subscription_details",
        },
        "payment_settings": {"default_mandate": null, "payment_method_options": null, "payment_method_types": null},
        "period_end": at,
        "period_start": start,
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_transitions": {
            "finalized_at": null, "marked_uncollectible_at": null, "paid_at": null, "voided_at": null,
        },
        "subtotal": total,
        "subtotal_excluding_tax": total,
        "test_clock": subscription["test_clock"],
        "total": total,
        "total_discount_amounts": [],
        "total_excluding_tax": total,
        "total_pretax_credit_amounts": [],
        "total_taxes": [],
    });
    without(&mut new, NOTHING);
    new
}

fn line(state: &mut State, invoice: &str, item: &Value, free: bool) -> Value {
    let (price, quantity) = (&item["price"], int(item, "quantity"));
    let amount = if free { 0 } else { int(price, "unit_amount") * quantity };
    json!({
        "id": state.id("il"),
        "object": "line_item",
        "amount": amount,
        "currency": price["currency"],
        "description": null,
        "discount_amounts": [],
        "discountable": true,
        "discounts": [],
        "invoice": invoice,
        "livemode": false,
        "metadata": {},
        "parent": {
            "invoice_item_details": null,
            "subscription_item_details": {
                "invoice_item": null, "proration": false, "proration_details": null,
                "subscription": item["subscription"], "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        },
        "period": {"end": item["current_period_end"], "start": item["current_period_start"]},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        },
        "quantity": quantity,
        "quantity_decimal": quantity.to_string(),
        "subscription": item["subscription"],
        "subtotal": amount,
        "taxes": [],
    })
}
